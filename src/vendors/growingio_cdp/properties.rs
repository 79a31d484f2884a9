//! Which CDP properties one request asks for, and where each column of `user.v1` reads its value.

use std::{borrow::Cow, collections::BTreeMap};

use crate::exports::{
    fields::{Selection, UserColumn, Wanted},
    problem::FieldError,
};
use crate::vendors::Mapping;

/// The caller's own id of a user, as a property. Source: `developer-manual/open-api/cdp/space/
/// space-download-user-tag-users.md`, parameter table; its samples also spell it `ids_$basic_userId`.
pub const USER_ID: &str = "id_$basic_userId";
/// The vendor's id of a user. It is no property, yet a mapping may name it where it stands anyway.
const GIO_ID: &str = "gio_id";
/// The most properties one export may ask for; more make it fail. Source: same page.
const MAX_PROPERTIES: usize = 60;
/// How CDP's property keys begin: identities, user attributes, tags, segments.
const PREFIXES: [&str; 5] = ["usr_", "tag_", "id_", "ids_", "seg_"];

/// The part of a property key that names an identity. Requests and answers spell the prefix in several ways
/// (`id_`, `ids_`, `d_`), so identities are compared by what follows the first underscore.
pub fn identity_name(key: &str) -> &str {
    key.split_once('_').map_or(key, |(_, name)| name)
}

/// An identity's key as every answer is shown: `id_…`.
pub fn identity_key(key: &str) -> Cow<'_, str> {
    match key.split_once('_') {
        Some(("ids" | "d", name)) => Cow::Owned(format!("id_{name}")),
        _ => Cow::Borrowed(key),
    }
}

/// Whether a property comes among `identifications`.
pub fn is_identity(property: &str) -> bool {
    property.starts_with("id_") || property.starts_with("ids_")
}

/// What one request asks of CDP and where its columns read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// In the order of the columns, without repeats.
    pub properties: Vec<String>,
    pub columns: BTreeMap<UserColumn, String>,
    /// The member of `attributes` → the property that feeds it.
    pub attributes: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

impl Ask {
    /// What `selection` needs of an export.
    ///
    /// # Errors
    /// When it is more than CDP exports at once.
    pub fn of_export(selection: &Selection, mapping: &Mapping) -> Result<Self, Vec<FieldError>> {
        let ask = Self::new(selection, mapping, false);
        if ask.properties.len() > MAX_PROPERTIES {
            let detail = format!(
                "CDP exports at most {MAX_PROPERTIES} properties at once; these fields need {}",
                ask.properties.len()
            );
            return Err(vec![FieldError::new("/parameters/fields", "too_many", detail)]);
        }
        Ok(ask)
    }

    /// Where `selection` reads the answer of a query for one user, which holds everything there is.
    pub fn of_query(selection: &Selection, mapping: &Mapping) -> Self {
        Self::new(selection, mapping, true)
    }

    fn new(selection: &Selection, mapping: &Mapping, all_comes: bool) -> Self {
        let mut ask = Self::default();
        let mut empty = Vec::new();
        for column in selection.columns() {
            match (column, selection.wants(column)) {
                (UserColumn::Identities, _) => {
                    let property = mapping.get(UserColumn::UserId.name()).map_or(USER_ID, String::as_str);
                    ask.ask_for(property);
                }
                (UserColumn::Activity, _) if selection.is_everything() => {}
                (UserColumn::Activity, _) => {
                    ask.warnings.push("`activity` stays empty: CDP gives no activity with users".into());
                }
                (UserColumn::Attributes, Wanted::Members(members)) => {
                    for member in members {
                        let mapped = mapping.get(&format!("attributes.{member}")).cloned();
                        ask.attribute(member, mapped.unwrap_or_else(|| property_of(member)));
                    }
                }
                (UserColumn::Attributes, _) => {
                    for (key, property) in mapping {
                        if let Some(member) = key.strip_prefix("attributes.") {
                            ask.attribute(member, property.clone());
                        }
                    }
                    if all_comes {
                        continue;
                    }
                    ask.warnings.push(
                        "`attributes` holds only what the connection's mapping names: CDP exports a property only when \
                         it is asked for; name others as `attributes.<name>`"
                            .into(),
                    );
                }
                _ => match mapping.get(column.name()) {
                    // Comes with every record.
                    Some(property) if column == UserColumn::VendorUserId && property == GIO_ID => {}
                    Some(property) => ask.column(column, property.clone()),
                    None if column == UserColumn::UserId => ask.column(column, USER_ID.to_owned()),
                    // Comes with every record.
                    None if column == UserColumn::VendorUserId => {}
                    None => empty.push(column.name()),
                },
            }
        }
        if !empty.is_empty() {
            ask.warnings.push(format!(
                "null in every record, because the connection's mapping names no property for them: {}",
                empty.join(", ")
            ));
        }
        ask
    }

    fn column(&mut self, column: UserColumn, property: String) {
        self.ask_for(&property);
        self.columns.insert(column, property);
    }

    fn attribute(&mut self, member: &str, property: String) {
        self.ask_for(&property);
        self.attributes.insert(member.to_owned(), property);
    }

    fn ask_for(&mut self, property: &str) {
        if !self.properties.iter().any(|known| known == property) {
            self.properties.push(property.to_owned());
        }
    }
}

/// The property an attribute means without a mapping: itself when it begins like one, else a user attribute.
fn property_of(member: &str) -> String {
    if PREFIXES.iter().any(|prefix| member.starts_with(prefix)) { member.to_owned() } else { format!("usr_{member}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(fields: &[&str], mapping: &[(&str, &str)]) -> Result<Ask, Vec<FieldError>> {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        let mapping = mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ask::of_export(&Selection::parse(&fields).unwrap(), &mapping)
    }

    #[test]
    fn columns_ask_for_identities_and_mapped_properties() {
        let mapping = [("gender", "usr_gender"), ("attributes.level", "tag_rfm"), ("email", "usr_email")];
        let ask = ask(&["gender", "user_id", "identities", "vendor_user_id", "attributes.level"], &mapping).unwrap();
        assert_eq!(ask.properties, ["id_$basic_userId", "usr_gender", "tag_rfm"]);
        assert!(ask.warnings.is_empty(), "{:?}", ask.warnings);
    }

    #[test]
    fn an_attribute_without_a_mapping_is_a_property_or_a_user_attribute() {
        let fields = ["tag_rfm", "usr_age", "age", "id_phone", "ids_mail", "seg_vip", "user"];
        let fields: Vec<_> = fields.iter().map(|name| format!("attributes.{name}")).collect();
        let ask = ask(&fields.iter().map(String::as_str).collect::<Vec<_>>(), &[]).unwrap();
        assert_eq!(ask.properties, ["usr_age", "id_phone", "ids_mail", "seg_vip", "tag_rfm", "usr_user"]);
        assert_eq!((&*ask.attributes["age"], &*ask.attributes["usr_age"]), ("usr_age", "usr_age"));
    }

    #[test]
    fn what_stays_empty_is_said() {
        let everything = ask(&[], &[("email", "usr_email"), ("attributes.level", "tag_rfm")]).unwrap();
        assert_eq!(everything.properties, ["id_$basic_userId", "usr_email", "tag_rfm"]);
        assert_eq!(everything.warnings.len(), 2);
        assert!(everything.warnings[1].ends_with(
            ": phone, first_name, last_name, gender, birth_date, country, city, language, time_zone, created_at"
        ));
        let named = ask(&["phone", "activity"], &[]).unwrap();
        assert!(named.properties.is_empty());
        assert!(named.warnings[0].contains("activity") && named.warnings[1].ends_with(": phone"));
    }

    #[test]
    fn at_most_60_properties() {
        let fields: Vec<_> = (0..61).map(|number| format!("attributes.a{number}")).collect();
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        assert_eq!(ask(&fields[..60], &[]).unwrap().properties.len(), 60);
        let errors = ask(&fields, &[]).unwrap_err();
        assert_eq!((errors[0].pointer.as_str(), errors[0].code.as_str()), ("/parameters/fields", "too_many"));
    }

    #[test]
    fn a_query_for_one_user_needs_no_choice() {
        let ask = Ask::of_query(&Selection::everything(), &Mapping::new());
        assert!(ask.warnings.iter().all(|warning| !warning.contains("attributes")), "{:?}", ask.warnings);
        let fields: Vec<_> = (0..61).map(|number| format!("attributes.a{number}")).collect();
        assert_eq!(Ask::of_query(&Selection::parse(&fields).unwrap(), &Mapping::new()).attributes.len(), 61);
    }

    /// Quirk 6.
    #[test]
    fn identities_are_compared_after_the_prefix() {
        for key in ["id_$basic_userId", "ids_$basic_userId", "d_$basic_userId"] {
            assert_eq!((identity_name(key), &*identity_key(key)), ("$basic_userId", "id_$basic_userId"));
        }
    }
}
