//! The columns of `user.v1` and the caller's choice among them (`parameters.fields`).

use std::collections::BTreeSet;

use serde::Serialize;
use utoipa::ToSchema;

use super::{cells::Key, problem::FieldError};

/// How a column's values look in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// A string or null.
    Text,
    /// `YYYY-MM-DD`; null when unknown. What cannot be read as a date is null here and kept as text in the row's object
    /// column, under this column's name.
    Date,
    /// RFC 3339 in UTC, to the microsecond; null when unknown. What cannot be read as a time is kept as for `date`.
    Timestamp,
    /// An object from name to an array of strings.
    TextLists,
    /// An object with free values.
    Object,
    /// A number or null.
    Number,
    /// A whole number of at most 64 bits, or null.
    Integer,
}

macro_rules! columns {
    ($($variant:ident $name:literal $kind:ident $description:literal;)*) => {
        /// A column of `user.v1`, in the order of the schema.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum UserColumn { $($variant,)* }

        impl UserColumn {
            /// Every column, in the order of the schema.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The names of every column.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub const fn kind(self) -> ColumnType {
                match self { $(Self::$variant => ColumnType::$kind,)* }
            }

            /// The name as it stands in a JSON object.
            pub(super) const fn key(self) -> Key {
                match self { $(Self::$variant => Key::new(concat!(",\"", $name, "\":")),)* }
            }

            /// What the column means, for people.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description,)* }
            }
        }
    };
}

columns! {
    UserId "user_id" Text "The caller's own id of the user; null if anonymous";
    VendorUserId "vendor_user_id" Text "The vendor's id of the user, always text";
    Identities "identities" TextLists "Every id the vendor knows, by the vendor's own names";
    Email "email" Text "E-mail address";
    Phone "phone" Text "Phone number as the vendor has it";
    FirstName "first_name" Text "Given name";
    LastName "last_name" Text "Family name";
    Gender "gender" Text "Gender as the vendor has it";
    BirthDate "birth_date" Date "Date of birth";
    Country "country" Text "Country as the vendor has it, usually ISO 3166-1 alpha-2";
    City "city" Text "Home city";
    Language "language" Text "Language as the vendor has it, usually ISO 639-1";
    TimeZone "time_zone" Text "Time zone as the vendor has it";
    CreatedAt "created_at" Timestamp "When the vendor first knew the user";
    Attributes "attributes" Object "Custom attributes, user attributes and tags";
    Activity "activity" Object "The vendor's events, purchases, devices and all else, as given";
}

impl UserColumn {
    /// The column of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|column| column.name() == name)
    }

    /// Whether its values are text, dates or times: what a connection's mapping can feed.
    pub const fn is_text(self) -> bool {
        matches!(self.kind(), ColumnType::Text | ColumnType::Date | ColumnType::Timestamp)
    }

    const fn has_members(self) -> bool {
        matches!(self, Self::Attributes | Self::Activity)
    }
}

/// How much of a column the caller wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    No,
    Whole,
    /// Only these members of an object column, sorted.
    Members(&'a BTreeSet<String>),
}

/// The caller's choice of columns, parsed once. Without `fields` it is every column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    whole: BTreeSet<UserColumn>,
    attributes: BTreeSet<String>,
    activity: BTreeSet<String>,
    everything: bool,
    /// Those of which anything is wanted, in the order of the schema.
    columns: Vec<UserColumn>,
}

impl Selection {
    /// Every column.
    pub fn everything() -> Self {
        Self {
            whole: UserColumn::ALL.iter().copied().collect(),
            attributes: BTreeSet::new(),
            activity: BTreeSet::new(),
            everything: true,
            columns: UserColumn::ALL.to_vec(),
        }
    }

    /// Parses `fields`: column names, `attributes.<name>` and `activity.<name>`. Empty means every column.
    ///
    /// # Errors
    /// One error for each entry that names no column, with a pointer below `/parameters/fields`.
    pub fn parse(fields: &[String]) -> Result<Self, Vec<FieldError>> {
        if fields.is_empty() {
            return Ok(Self::everything());
        }
        let mut selection = Self { whole: BTreeSet::new(), everything: false, ..Self::everything() };
        let mut errors = Vec::new();
        for (index, field) in fields.iter().enumerate() {
            let parsed = match field.split_once('.') {
                None => UserColumn::named(field).map(|column| selection.whole.insert(column)),
                Some((column, member)) => UserColumn::named(column)
                    .filter(|column| column.has_members() && !member.is_empty())
                    .map(|column| selection.members_mut(column).insert(member.to_owned())),
            };
            if parsed.is_none() {
                errors.push(FieldError::new(
                    format!("/parameters/fields/{index}"),
                    "unknown_field",
                    format!(
                        "`{field}` is no column of user.v1; use a column name, `attributes.<name>` or `activity.<name>`"
                    ),
                ));
            }
        }
        let all = UserColumn::ALL.iter().copied();
        selection.columns = all.filter(|column| selection.wants(*column) != Wanted::No).collect();
        if errors.is_empty() { Ok(selection) } else { Err(errors) }
    }

    fn members_mut(&mut self, column: UserColumn) -> &mut BTreeSet<String> {
        if column == UserColumn::Attributes { &mut self.attributes } else { &mut self.activity }
    }

    /// True when the caller named no fields.
    pub const fn is_everything(&self) -> bool {
        self.everything
    }

    /// How much of `column` is wanted. Naming a whole column beats naming members of it.
    pub fn wants(&self, column: UserColumn) -> Wanted<'_> {
        if self.whole.contains(&column) {
            return Wanted::Whole;
        }
        let members = match column {
            UserColumn::Attributes => &self.attributes,
            UserColumn::Activity => &self.activity,
            _ => return Wanted::No,
        };
        if members.is_empty() { Wanted::No } else { Wanted::Members(members) }
    }

    /// The columns that appear in a row, in the order of the schema.
    pub fn columns(&self) -> impl Iterator<Item = UserColumn> + '_ {
        self.columns.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(fields: &[&str]) -> Result<Selection, Vec<FieldError>> {
        Selection::parse(&fields.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn columns_come_in_schema_order_and_members_narrow_an_object() {
        let selection = parse(&["attributes.plan", "email", "user_id"]).unwrap();
        let names: Vec<_> = selection.columns().map(UserColumn::name).collect();
        assert_eq!(names, ["user_id", "email", "attributes"]);
        assert_eq!(selection.wants(UserColumn::Attributes), Wanted::Members(&BTreeSet::from(["plan".to_owned()])));
    }

    #[test]
    fn an_unknown_field_is_named_with_its_pointer() {
        let errors = parse(&["email", "shoe_size", "email.x", "attributes."]).unwrap_err();
        let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/parameters/fields/1", "/parameters/fields/2", "/parameters/fields/3"]);
    }

    #[test]
    fn no_fields_means_every_column() {
        assert!(parse(&[]).unwrap().is_everything());
        assert_eq!(parse(&[]).unwrap().columns().count(), UserColumn::ALL.len());
    }
}
