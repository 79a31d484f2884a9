//! Which user variables one request asks for, and where each column of `user.v1` reads its value.

use std::collections::BTreeMap;

use super::rows::Id;
use crate::{
    exports::fields::{Selection, UserColumn, Wanted},
    vendors::Mapping,
};

/// What one request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ask {
    /// Keys of user variables, for the exporter. Ids come without being asked for.
    pub parameters: Vec<String>,
    /// The column → the variable that the mapping feeds it with.
    pub columns: BTreeMap<UserColumn, String>,
    /// The member of `attributes` → its variable.
    pub attributes: BTreeMap<String, String>,
    pub warnings: Vec<String>,
}

impl Ask {
    /// What `selection` needs.
    pub fn new(selection: &Selection, mapping: &Mapping) -> Self {
        let mut ask = Self::default();
        let mut empty = Vec::new();
        for column in selection.columns() {
            match (column, selection.wants(column)) {
                // A segment of login users has no visitor ids: what is null is the segment's nature, not a gap.
                (UserColumn::Identities, _) => {}
                (UserColumn::Activity, _) if selection.is_everything() => {}
                (UserColumn::Activity, _) => {
                    ask.warnings.push("`activity` stays empty: GrowingIO exports no activity with a segment".into());
                }
                (UserColumn::Attributes, Wanted::Members(members)) => {
                    for member in members {
                        let mapped = mapping.get(&format!("attributes.{member}"));
                        ask.attribute(member, mapped.unwrap_or(member).clone());
                    }
                }
                (UserColumn::Attributes, _) => {
                    for (key, variable) in mapping {
                        if let Some(member) = key.strip_prefix("attributes.") {
                            ask.attribute(member, variable.clone());
                        }
                    }
                    ask.warnings.push(
                        "`attributes` may hold only what the connection's mapping names: GrowingIO's exporter gives a \
                         user variable only when it is asked for; name others as `attributes.<key>`"
                            .into(),
                    );
                }
                _ => match mapping.get(column.name()) {
                    Some(variable) => ask.column(column, variable.clone()),
                    None if matches!(column, UserColumn::UserId | UserColumn::VendorUserId) => {}
                    None => empty.push(column.name()),
                },
            }
        }
        if !empty.is_empty() {
            ask.warnings.push(format!(
                "null in every record, because the connection's mapping names no user variable for them: {}",
                empty.join(", ")
            ));
        }
        ask
    }

    fn column(&mut self, column: UserColumn, variable: String) {
        self.ask_for(&variable);
        self.columns.insert(column, variable);
    }

    fn attribute(&mut self, member: &str, variable: String) {
        self.ask_for(&variable);
        self.attributes.insert(member.to_owned(), variable);
    }

    fn ask_for(&mut self, variable: &str) {
        if variable.contains(',') {
            self.warnings.push(format!("the exporter cannot be asked for `{variable}`: its list has commas"));
        } else if Id::named(variable).is_none() && !self.parameters.iter().any(|known| known == variable) {
            self.parameters.push(variable.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(fields: &[&str], mapping: &[(&str, &str)]) -> Ask {
        let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
        let mapping = mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ask::new(&Selection::parse(&fields).unwrap(), &mapping)
    }

    #[test]
    fn variables_are_asked_for_once_and_ids_never() {
        let mapping =
            [("gender", "gender_key"), ("attributes.sex", "gender_key"), ("attributes.plan", "P"), ("user_id", "cs1")];
        let fields = ["user_id", "vendor_user_id", "identities", "gender", "attributes.sex", "attributes.plan"];
        let ask = ask(&[&fields[..], &["attributes.age"]].concat(), &mapping);
        assert_eq!(ask.parameters, ["gender_key", "age", "P"]);
        assert_eq!(ask.attributes["sex"], "gender_key");
        assert_eq!(ask.columns[&UserColumn::UserId], "cs1");
        assert!(ask.warnings.is_empty(), "{:?}", ask.warnings);
    }

    #[test]
    fn what_stays_empty_is_said() {
        let everything = ask(&[], &[("email", "mail"), ("attributes.plan", "plan")]);
        assert_eq!(everything.parameters, ["mail", "plan"]);
        assert_eq!(everything.warnings.len(), 2);
        assert!(everything.warnings[1].contains(": phone, first_name") && !everything.warnings[1].contains("email"));
        let named = ask(&["phone", "activity", "attributes.a,b"], &[]);
        assert!(named.parameters.is_empty());
        assert_eq!(named.warnings.len(), 3);
    }
}
