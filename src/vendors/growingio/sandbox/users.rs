//! A person as classic GrowingIO exports them, and as the row of `user.v1` that this means.
//! Files: `api/statistics-api/definition/` (users.csv), `api/statistics-api-v3/definition/` (the exporter's csv).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
};

use chrono::SecondsFormat;
use serde_json::{Map, Value, json};

use super::{access::write_lines, raw_files::escaped};
use crate::vendors::sandbox::{
    Audience,
    people::{Gender, Person},
};

/// The column of `user.v1` and the user variable that feeds it, as the demo connection maps them.
pub const MAPPING: [(&str, &str); 11] = [
    ("email", "email"),
    ("phone", "phone"),
    ("first_name", "first_name"),
    ("last_name", "last_name"),
    ("gender", "gender"),
    ("birth_date", "birthday"),
    ("country", "country"),
    ("city", "city"),
    ("language", "language"),
    ("time_zone", "time_zone"),
    ("created_at", "registered_at"),
];

/// The keys of every user variable.
pub const VARIABLES: [&str; 15] = [
    "email",
    "phone",
    "first_name",
    "last_name",
    "gender",
    "birthday",
    "country",
    "city",
    "language",
    "time_zone",
    "registered_at",
    "plan",
    "age",
    "score",
    "note",
];

/// Whom a segment is made of; the names are the vendor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserType {
    /// `u`: visitors, with the login user's id where they have one.
    Visitor,
    /// `cs1`: login users only; people without an id are not in it.
    Login,
}

impl UserType {
    pub fn name(self) -> &'static str {
        match self {
            Self::Visitor => "u",
            Self::Login => "cs1",
        }
    }
}

impl Person {
    /// What raw data calls `visitUserId`.
    pub fn visitor_id(&self) -> String {
        format!("{:08x}-{:04x}-4{:07x}", self.draw(300, 1 << 32), self.draw(301, 1 << 16), self.index)
    }

    /// The value of a user variable, always text; `None` when there is no such variable.
    pub fn variable(&self, key: &str) -> Option<Option<String>> {
        let value = match key {
            "email" => self.email.clone(),
            "phone" => self.phone.clone(),
            "first_name" => self.first_name.clone(),
            "last_name" => self.last_name.clone(),
            "gender" => self.gender.map(|gender| match gender {
                Gender::Female => "女".to_owned(),
                Gender::Male => "男".to_owned(),
                Gender::Other => "其他".to_owned(),
            }),
            "birthday" => self.birth_date.map(|day| day.to_string()),
            "country" => self.country.map(str::to_owned),
            "city" => self.city.map(str::to_owned),
            "language" => self.language.map(str::to_owned),
            "time_zone" => self.time_zone.map(str::to_owned),
            "registered_at" => self.created_at.map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true)),
            "plan" => Some(self.plan.to_owned()),
            "age" => self.age.map(|age| age.to_string()),
            "score" => self.score.map(|score| score.to_string()),
            "note" => self.note.filter(|note| !note.is_empty()).map(str::to_owned),
            _ => return None,
        };
        Some(value)
    }

    /// The row of `user.v1` that an export of a segment of that type with this mapping means; `attributes` are the
    /// other variables it asked for. An empty cell is an unknown value. Identities have the vendor's names of user types.
    pub fn classic_user_v1(
        &self,
        user_type: UserType,
        mapping: &BTreeMap<String, String>,
        attributes: &[&str],
    ) -> Value {
        let column = |name: &str| mapping.get(name).and_then(|key| self.variable(key).flatten());
        let visitor = (user_type == UserType::Visitor).then(|| self.visitor_id());
        let mut identities = Map::new();
        for (name, id) in [(UserType::Login, &self.user_id), (UserType::Visitor, &visitor)] {
            if let Some(id) = id {
                identities.insert(name.name().to_owned(), json!([id]));
            }
        }
        let attributes: Map<_, _> =
            attributes.iter().map(|key| ((*key).to_owned(), json!(self.variable(key).flatten()))).collect();
        json!({
            "user_id": self.user_id,
            "vendor_user_id": visitor,
            "identities": identities,
            "email": column("email"),
            "phone": column("phone"),
            "first_name": column("first_name"),
            "last_name": column("last_name"),
            "gender": column("gender"),
            "birth_date": column("birth_date"),
            "country": column("country"),
            "city": column("city"),
            "language": column("language"),
            "time_zone": column("time_zone"),
            "created_at": column("created_at"),
            "attributes": attributes,
            "activity": {},
        })
    }
}

/// How a list of users is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Separator {
    /// users.csv. Quoting is not documented, so there is none; tabs and line ends within values are spaces.
    Tab,
    /// The exporter's files: quotes and backslash escapes as in raw data.
    Comma,
}

/// A list of users.
#[derive(Debug, Clone)]
pub struct Users {
    pub audience: Audience,
    pub seed: u64,
    pub user_type: UserType,
    pub variables: Vec<String>,
    pub separator: Separator,
    /// Localised names of the id columns.
    pub display_header: bool,
    pub empty: bool,
    pub bad_record: bool,
    pub bom: bool,
    /// Ends in the middle of a line.
    pub break_off: bool,
}

impl Users {
    pub fn write(self, file: &mut BufWriter<File>) -> io::Result<()> {
        if self.empty {
            return Ok(());
        }
        if self.bom {
            file.write_all("\u{feff}".as_bytes())?;
        }
        let break_off = self.break_off.then(|| 1 + self.audience.size() * 3 / 5).map(|after| {
            // An empty list breaks off in its header.
            if self.audience.size() == 0 { 0 } else { after }
        });
        let users = self.clone();
        let people = self.audience.members().map(move |index| Person::new(users.seed, index));
        let people = people.filter(move |person| self.user_type == UserType::Visitor || person.user_id.is_some());
        let (bad_record, seen) = (self.bad_record, std::cell::Cell::new(0));
        let line = |person: Person| {
            let mut cells = self.cells(&person);
            if bad_record && seen.replace(seen.get() + 1) == 1 {
                cells.truncate(cells.len() / 2);
            }
            self.joined(&cells)
        };
        let header = self.joined(&self.header());
        write_lines(file, std::iter::once(header).chain(people.map(line)), break_off)
    }

    fn header(&self) -> Vec<String> {
        let login = if self.display_header { "登录用户ID" } else { "cs1" };
        let ids: &[&str] = match self.user_type {
            UserType::Visitor => &["访问用户ID", login],
            UserType::Login => &[login],
        };
        ids.iter().map(|id| (*id).to_owned()).chain(self.variables.iter().cloned()).collect()
    }

    fn cells(&self, person: &Person) -> Vec<String> {
        let visitor = (self.user_type == UserType::Visitor).then(|| person.visitor_id());
        let login = person.user_id.clone().unwrap_or_default();
        let variables = self.variables.iter().map(|key| person.variable(key).flatten().unwrap_or_default());
        visitor.into_iter().chain([login]).chain(variables).collect()
    }

    fn joined(&self, cells: &[String]) -> String {
        let cells = cells.iter();
        match self.separator {
            Separator::Comma => cells.map(|cell| escaped(cell)).collect::<Vec<_>>().join(","),
            Separator::Tab => cells.map(|cell| cell.replace(['\t', '\n', '\r'], " ")).collect::<Vec<_>>().join("\t"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_tell_of_the_same_person() {
        let mapping = MAPPING.map(|(column, key)| (column.to_owned(), key.to_owned())).into();
        for index in 0..64 {
            let person = Person::new(1, index);
            let braze = person.braze_user_v1();
            let classic = person.classic_user_v1(UserType::Visitor, &mapping, &[]);
            for column in ["user_id", "email", "phone", "first_name", "last_name", "birth_date", "city", "created_at"] {
                assert_eq!(braze[column], classic[column], "{column} of {index}");
            }
        }
    }

    #[test]
    fn every_listed_variable_exists() {
        let person = Person::new(1, 0);
        assert!(VARIABLES.iter().all(|key| person.variable(key).is_some()));
        assert!(MAPPING.iter().all(|(_, key)| VARIABLES.contains(key)));
        assert_eq!(person.variable("shoe_size"), None);
    }
}
