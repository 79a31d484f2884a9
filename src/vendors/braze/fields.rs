//! Which Braze fields feed which column of `user.v1`, and what one request therefore asks for.

use std::collections::{BTreeMap, BTreeSet};

use crate::exports::{
    fields::{Selection, UserColumn, Wanted},
    mapping::ValueMaps,
    problem::FieldError,
};
use crate::vendors::Mapping;

/// Every name `fields_to_export` may hold: the 33 that every account knows, in the order of Braze's list, and
/// `created_from`, which newer accounts know too and which is asked only when named.
/// Source: `_docs/_api/endpoints/export/user_data/post_users_segment.md`, "Fields to export".
const FIELDS: [&str; 34] = [
    "apps",
    "attributed_campaign",
    "attributed_source",
    "attributed_adgroup",
    "attributed_ad",
    "braze_id",
    "campaigns_received",
    "canvases_received",
    "cards_clicked",
    "country",
    "created_at",
    "custom_attributes",
    "custom_events",
    "devices",
    "dob",
    "email",
    "email_subscribe",
    "external_id",
    "first_name",
    "gender",
    "home_city",
    "language",
    "last_coordinates",
    "last_name",
    "phone",
    "purchases",
    "push_subscribe",
    "push_tokens",
    "random_bucket",
    "time_zone",
    "total_revenue",
    "uninstalled_at",
    "user_aliases",
    "created_from",
];
const COMMON: usize = 33;

/// Fields that come along with another one and cannot be asked for by name.
const COMPANIONS: [(&str, &str); 4] = [
    ("push_opted_in_at", "push_subscribe"),
    ("push_unsubscribed_at", "push_subscribe"),
    ("email_opted_in_at", "email_subscribe"),
    ("email_unsubscribed_at", "email_subscribe"),
];

/// The most names `custom_attributes_to_export` may hold.
const MAX_CUSTOM_ATTRIBUTES: usize = 500;

/// Names that the list of the global control group lacks.
/// Source: `_docs/_api/endpoints/export/user_data/post_users_global_control_group.md`, "Fields to export".
const NOT_OF_CONTROL_GROUP: [&str; 6] =
    ["campaigns_received", "canvases_received", "cards_clicked", "email_subscribe", "push_subscribe", "push_tokens"];

/// Where users are asked for: what may be named differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Segment,
    ControlGroup,
    /// By their ids.
    Profiles,
}

impl Place {
    fn knows(self, field: &str) -> bool {
        self != Self::ControlGroup || !NOT_OF_CONTROL_GROUP.contains(&field)
    }

    /// Whether single custom attributes can be named; else all come and the unwanted are dropped here.
    fn selects_attributes(self) -> bool {
        self == Self::Segment
    }
}

/// The column a Braze field feeds without a mapping.
pub fn column_of(field: &str) -> Option<UserColumn> {
    Some(match field {
        "external_id" => UserColumn::UserId,
        "braze_id" => UserColumn::VendorUserId,
        "email" => UserColumn::Email,
        "phone" => UserColumn::Phone,
        "first_name" => UserColumn::FirstName,
        "last_name" => UserColumn::LastName,
        "gender" => UserColumn::Gender,
        "dob" => UserColumn::BirthDate,
        "country" => UserColumn::Country,
        "home_city" => UserColumn::City,
        "language" => UserColumn::Language,
        "time_zone" => UserColumn::TimeZone,
        "created_at" => UserColumn::CreatedAt,
        "user_aliases" => UserColumn::Identities,
        "custom_attributes" => UserColumn::Attributes,
        _ => return None,
    })
}

/// Where a value stands in Braze's user object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Field {
        name: &'static str,
        /// What has to be asked for so that it comes.
        ask: &'static str,
    },
    /// A member of `custom_attributes`.
    Custom(String),
}

impl Source {
    /// Reads a property of a connection's mapping: a top-level field, else a custom attribute, with or without the
    /// prefix `custom_attributes.`.
    fn of(property: &str) -> Self {
        match known(property) {
            Some((name, ask)) => Self::Field { name, ask },
            None => Self::Custom(property.strip_prefix("custom_attributes.").unwrap_or(property).to_owned()),
        }
    }
}

/// The field of that name, and what has to be asked for so that it comes.
fn known(name: &str) -> Option<(&'static str, &'static str)> {
    let companion = COMPANIONS.iter().copied().find(|(companion, _)| *companion == name);
    companion.or_else(|| FIELDS.iter().find(|field| **field == name).map(|field| (*field, *field)))
}

/// A connection's mapping, read once.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub columns: BTreeMap<UserColumn, Source>,
    /// The member of `attributes` → where it comes from.
    pub attributes: BTreeMap<String, Source>,
    /// How their values are translated.
    pub values: ValueMaps,
}

impl Sources {
    /// Reads a mapping whose keys are known to be right.
    ///
    /// # Errors
    /// A property that is no single value.
    pub fn read(mapping: &Mapping) -> Result<Self, Vec<FieldError>> {
        let mut sources = Self::default();
        let mut errors = Vec::new();
        for (key, property) in mapping {
            if property == "custom_attributes" {
                let pointer = format!("/mapping/{}", crate::exports::request::escape_pointer(key));
                errors.push(FieldError::new(pointer, "invalid", "one custom attribute, not all of them"));
            } else if let Some(name) = key.strip_prefix("attributes.") {
                sources.attributes.insert(name.to_owned(), Source::of(property));
            } else if let Some(column) = UserColumn::named(key) {
                sources.columns.insert(column, Source::of(property));
            }
        }
        if errors.is_empty() { Ok(sources) } else { Err(errors) }
    }
}

/// What one request asks of Braze.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// `fields_to_export`: in Braze's order, never empty, since Braze requires it.
    pub fields: Vec<&'static str>,
    /// The custom attributes that are wanted, unless all are: `custom_attributes_to_export` of a segment, where it is
    /// never named together with the field `custom_attributes`, which would override it.
    pub custom_attributes: BTreeSet<String>,
    /// The top-level fields the caller wants to see: without what was added for our own use.
    pub wanted: BTreeSet<&'static str>,
}

impl Ask {
    /// What `selection` needs. `verbatim` says that the caller gets Braze's bytes as they are: then nothing is added to
    /// the fields the caller named. Otherwise `braze_id` always comes: it is the only key that tells users apart.
    ///
    /// # Errors
    /// Activity that Braze does not have there, more custom attributes than Braze can select, or single ones in bytes
    /// that nobody can narrow.
    pub fn new(
        selection: &Selection,
        sources: &Sources,
        verbatim: bool,
        place: Place,
    ) -> Result<Self, Vec<FieldError>> {
        let mut ask = Self::default();
        let mut fields = BTreeSet::new();
        let mut errors = Vec::new();
        for column in selection.columns() {
            match selection.wants(column) {
                Wanted::No => {}
                Wanted::Members(members) if column == UserColumn::Activity => {
                    for member in members {
                        match known(member).filter(|(name, needed)| column_of(name).is_none() && place.knows(needed)) {
                            Some((name, needed)) => ask.take(&mut fields, name, needed),
                            None => errors.push(unknown_activity(member, place)),
                        }
                    }
                }
                Wanted::Members(members) => {
                    for member in members {
                        match sources.attributes.get(member) {
                            Some(source) => ask.take_source(&mut fields, source),
                            None => ask.take_source(&mut fields, &Source::Custom(member.clone())),
                        }
                    }
                }
                Wanted::Whole => ask.take_column(&mut fields, column, sources),
            }
        }
        if fields.contains("custom_attributes") {
            ask.custom_attributes.clear();
        } else if !place.selects_attributes() && !ask.custom_attributes.is_empty() {
            if verbatim {
                let detail = "here Braze sends all custom attributes or none; ask for `attributes`, or another format";
                errors.push(FieldError::new("/parameters/fields", "not_supported", detail));
            }
            fields.insert("custom_attributes");
        } else if ask.custom_attributes.len() > MAX_CUSTOM_ATTRIBUTES {
            let detail =
                format!("Braze selects at most {MAX_CUSTOM_ATTRIBUTES} custom attributes; ask for `attributes`");
            errors.push(FieldError::new("/parameters/fields", "too_many", detail));
        }
        if fields.is_empty() || !verbatim || selection.is_everything() {
            fields.insert("braze_id");
        }
        ask.fields = FIELDS.into_iter().filter(|field| fields.contains(field) && place.knows(field)).collect();
        if errors.is_empty() { Ok(ask) } else { Err(errors) }
    }

    fn take(&mut self, fields: &mut BTreeSet<&'static str>, name: &'static str, needed: &'static str) {
        fields.insert(needed);
        self.wanted.insert(name);
    }

    fn take_source(&mut self, fields: &mut BTreeSet<&'static str>, source: &Source) {
        match source {
            Source::Field { name, ask } => self.take(fields, name, ask),
            Source::Custom(name) => {
                self.custom_attributes.insert(name.clone());
                self.wanted.insert("custom_attributes");
            }
        }
    }

    fn take_column(&mut self, fields: &mut BTreeSet<&'static str>, column: UserColumn, sources: &Sources) {
        if let Some(source) = sources.columns.get(&column) {
            return self.take_source(fields, source);
        }
        match column {
            UserColumn::Identities => {
                for field in ["external_id", "braze_id", "user_aliases"] {
                    self.take(fields, field, field);
                }
            }
            UserColumn::Activity => {
                for field in FIELDS[..COMMON].iter().filter(|field| column_of(field).is_none()) {
                    self.take(fields, field, field);
                }
            }
            _ => {
                for field in FIELDS.iter().filter(|field| column_of(field) == Some(column)) {
                    self.take(fields, field, field);
                }
                if column == UserColumn::Attributes {
                    for source in sources.attributes.values() {
                        self.take_source(fields, source);
                    }
                }
            }
        }
    }
}

fn unknown_activity(member: &str, place: Place) -> FieldError {
    let known: Vec<_> = FIELDS.into_iter().filter(|field| column_of(field).is_none() && place.knows(field)).collect();
    FieldError::new(
        "/parameters/fields",
        "unknown_field",
        format!("Braze has no `activity.{member}` here; it has {}", known.join(", ")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(fields: &[&str], mapping: &[(&str, &str)], verbatim: bool) -> Result<Ask, Vec<FieldError>> {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        let mapping = mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ask::new(&Selection::parse(&fields).unwrap(), &Sources::read(&mapping).unwrap(), verbatim, Place::Segment)
    }

    #[test]
    fn without_fields_the_33_common_fields_are_asked() {
        for verbatim in [false, true] {
            let ask = ask(&[], &[], verbatim).unwrap();
            assert_eq!(ask.fields, FIELDS[..33]);
            assert!(ask.custom_attributes.is_empty());
        }
    }

    #[test]
    fn each_column_asks_for_its_own_fields_and_the_key() {
        for (field, expected) in [
            ("user_id", &["braze_id", "external_id"][..]),
            ("vendor_user_id", &["braze_id"]),
            ("identities", &["braze_id", "external_id", "user_aliases"]),
            ("birth_date", &["braze_id", "dob"]),
            ("city", &["braze_id", "home_city"]),
            ("attributes", &["braze_id", "custom_attributes"]),
            ("activity.purchases", &["braze_id", "purchases"]),
            ("activity.email_opted_in_at", &["braze_id", "email_subscribe"]),
            ("activity.created_from", &["braze_id", "created_from"]),
        ] {
            assert_eq!(ask(&[field], &[], false).unwrap().fields, expected, "{field}");
        }
        let rest = ask(&["activity"], &[], false).unwrap();
        assert_eq!(rest.fields.len(), 33 - 15 + 1);
        assert!(!rest.wanted.contains("braze_id"));
    }

    #[test]
    fn verbatim_bytes_hold_nothing_the_caller_did_not_name() {
        assert_eq!(ask(&["email"], &[], true).unwrap().fields, ["email"]);
        assert_eq!(ask(&["attributes.plan"], &[], true).unwrap().fields, ["braze_id"]);
    }

    #[test]
    fn single_attributes_are_never_asked_beside_all_of_them() {
        let single = ask(&["attributes.plan", "attributes.b"], &[], false).unwrap();
        assert_eq!(single.fields, ["braze_id"]);
        assert_eq!(single.custom_attributes, BTreeSet::from(["b".to_owned(), "plan".to_owned()]));
        let all = ask(&["attributes", "city"], &[("city", "town")], false).unwrap();
        assert_eq!(all.fields, ["braze_id", "custom_attributes"]);
        assert!(all.custom_attributes.is_empty());
    }

    #[test]
    fn a_mapping_asks_for_what_it_names() {
        let mapping = [
            ("email", "work_email"),
            ("city", "custom_attributes.town"),
            ("language", "country"),
            ("attributes.plan", "Plan Name"),
            ("attributes.bucket", "random_bucket"),
        ];
        let ask = ask(&["email", "city", "language", "attributes.plan", "attributes.bucket"], &mapping, false).unwrap();
        assert_eq!(ask.fields, ["braze_id", "country", "random_bucket"]);
        assert_eq!(ask.custom_attributes.into_iter().collect::<Vec<_>>(), ["Plan Name", "town", "work_email"]);
    }

    #[test]
    fn unknown_activity_and_too_many_attributes_are_refused() {
        for member in ["shoes", "email", "custom_attributes"] {
            let errors = ask(&[&format!("activity.{member}")], &[], false).unwrap_err();
            assert_eq!((errors[0].pointer.as_str(), errors[0].code.as_str()), ("/parameters/fields", "unknown_field"));
        }
        let many: Vec<_> = (0..501).map(|number| format!("attributes.a{number}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(ask(&many[..500], &[], false).is_ok());
        assert_eq!(ask(&many, &[], false).unwrap_err()[0].code, "too_many");
        let mapping = Mapping::from([("email".to_owned(), "custom_attributes".to_owned())]);
        assert_eq!(Sources::read(&mapping).unwrap_err()[0].pointer, "/mapping/email");
    }

    fn asked(fields: &[&str], verbatim: bool, place: Place) -> Result<Ask, Vec<FieldError>> {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        Ask::new(&Selection::parse(&fields).unwrap(), &Sources::default(), verbatim, place)
    }

    #[test]
    fn the_control_group_knows_27_names() {
        let everything = asked(&[], false, Place::ControlGroup).unwrap();
        assert_eq!(everything.fields.len(), 27);
        assert!(!everything.fields.contains(&"push_tokens"));
        for member in ["campaigns_received", "push_tokens", "email_opted_in_at"] {
            let field = format!("activity.{member}");
            assert_eq!(asked(&[&field], false, Place::ControlGroup).unwrap_err()[0].code, "unknown_field", "{member}");
            assert!(asked(&[&field], false, Place::Segment).is_ok());
        }
    }

    #[test]
    fn where_single_attributes_cannot_be_named_all_are_asked_and_the_wanted_kept_in_mind() {
        for place in [Place::ControlGroup, Place::Profiles] {
            let ask = asked(&["attributes.plan"], false, place).unwrap();
            assert_eq!(ask.fields, ["braze_id", "custom_attributes"]);
            assert_eq!(ask.custom_attributes, BTreeSet::from(["plan".to_owned()]));
            let errors = asked(&["attributes.plan"], true, place).unwrap_err();
            assert_eq!((errors[0].pointer.as_str(), errors[0].code.as_str()), ("/parameters/fields", "not_supported"));
        }
    }
}
