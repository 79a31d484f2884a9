//! Files of users: the exporter's, with commas, quotes and backslashes, and `users.csv`, with tabs.
//! The first row names the columns: the ids by one of several names, the user variables by key or by display name.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::value::{RawValue, to_raw_value};

use super::{EXPORTED, ask::Ask};
use crate::{
    exports::{
        fields::{Selection, UserColumn, Wanted},
        mapping::ValueMaps,
        records::{BadRecord, Delimiter, Dialect, Emit, Framing, Member, Record, Records},
        rows::Row,
        user::UserRow,
    },
    vendors::{
        growingio::{
            statistics::TABS,
            table::{self, distinct},
        },
        object,
    },
};

/// A download ends here without a word: the documents name the number, but no sign of a cut.
pub const MAX_USERS: u64 = 200_000;

/// The exporter's files are written like raw data. Source: `api/originaldata-export-v2/exportsuggest.md`.
const BACKSLASHES: Dialect = Dialect { delimiter: Delimiter::Comma, escape: Some(b'\\'), double_quote: false };
/// How quotes are written in `users.csv` is not documented.
const WITH_COMMAS: Dialect = Dialect { delimiter: Delimiter::Comma, escape: None, double_quote: true };
const WITH_TABS: Dialect = Dialect { delimiter: Delimiter::Tab, escape: None, double_quote: false };

/// The ids a user can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Id {
    /// The caller's own.
    Login,
    /// The vendor's.
    Visitor,
}

impl Id {
    /// The id that a column of that name holds: `api/statistics-api/definition/get-segmentations.md` has the first two
    /// of each, the last is raw data's.
    pub fn named(name: &str) -> Option<Self> {
        let is = |names: [&str; 3]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is(["cs1", "登录用户ID", "loginUserId"]) {
            Some(Self::Login)
        } else if is(["u", "访问用户ID", "visitUserId"]) {
            Some(Self::Visitor)
        } else {
            None
        }
    }

    /// The vendor's name, as its lists of segments have it (`userType`).
    const fn name(self) -> &'static str {
        match self {
            Self::Login => "cs1",
            Self::Visitor => "u",
        }
    }
}

/// Reads files of users as one request asked for them.
pub struct UserFiles {
    selection: Selection,
    ask: Ask,
    values: ValueMaps,
    users: AtomicU64,
}

impl UserFiles {
    pub const fn new(selection: Selection, ask: Ask, values: ValueMaps) -> Self {
        Self { selection, ask, values, users: AtomicU64::new(0) }
    }
}

impl Records for UserFiles {
    fn framing(&self, tag: &str) -> Framing {
        Framing::Delimited(match tag {
            EXPORTED => BACKSLASHES,
            TABS => WITH_TABS,
            _ => WITH_COMMAS,
        })
    }

    fn member<'r>(&'r self, _tag: &'r str) -> Box<dyn Member + 'r> {
        Box::new(UserFile { files: self, header: None })
    }

    fn warnings(&self) -> Vec<String> {
        if self.users.load(Ordering::Relaxed) != MAX_USERS {
            return Vec::new();
        }
        vec![format!("the file has exactly {MAX_USERS} users, which is all that GrowingIO gives: more may be missing")]
    }
}

/// A file being read.
struct UserFile<'r> {
    files: &'r UserFiles,
    /// Known from the first row on.
    header: Option<Header>,
}

/// Where in a row each value stands.
struct Header {
    names: Vec<String>,
    login: Option<usize>,
    visitor: Option<usize>,
    columns: BTreeMap<UserColumn, usize>,
    attributes: BTreeMap<String, usize>,
    /// Everything else, where all attributes are wanted.
    others: Vec<usize>,
    /// Whether the vendor's own record keeps the column.
    kept: Vec<bool>,
    /// The file puts its cells into quotes, although its dialect has none.
    is_quoted: bool,
}

impl UserFile<'_> {
    /// The header and the cells of a user; none for the header row itself.
    fn cells<'c>(&mut self, record: Record<'c>) -> Result<Option<(&Header, Vec<&'c str>)>, BadRecord> {
        let mut cells = table::cells(record)?;
        if self.header.is_none() {
            self.header = Some(Header::read(cells, self.files)?);
            return Ok(None);
        }
        let Some(header) = &self.header else { return Ok(None) };
        table::fit(&mut cells, header.names.len())?;
        if header.is_quoted {
            for cell in &mut cells {
                *cell = unquoted(cell);
            }
        }
        self.files.users.fetch_add(1, Ordering::Relaxed);
        Ok(Some((header, cells)))
    }
}

impl Member for UserFile<'_> {
    fn unified(&mut self, record: Record<'_>, emit: &mut Emit<'_>) -> Result<(), BadRecord> {
        let values = &self.files.values;
        let Some((header, cells)) = self.cells(record)? else { return Ok(()) };
        let mut row = UserRow::default();
        let known = |index: usize| cells.get(index).copied().filter(|cell| !cell.trim().is_empty());
        for (id, column, index) in
            [(Id::Login, UserColumn::UserId, header.login), (Id::Visitor, UserColumn::VendorUserId, header.visitor)]
        {
            let Some(value) = index.and_then(known).map(|value| Cow::Borrowed(value.trim())) else { continue };
            row.identities.push((Cow::Borrowed(id.name()), vec![value.clone()]));
            row.set(column, Some(values.text(column, value)));
        }
        for (column, index) in &header.columns {
            row.set(*column, known(*index).map(|cell| values.text(*column, Cow::Borrowed(cell))));
        }
        for (member, index) in &header.attributes {
            row.attributes.push((Cow::Borrowed(member), values.attribute(member, value(known(*index))?)));
        }
        for index in &header.others {
            row.attributes.push((Cow::Borrowed(&header.names[*index]), value(known(*index))?));
        }
        emit(&Row::User(row))
    }

    fn vendor(&mut self, record: Record<'_>, out: &mut Vec<u8>) -> Result<(), BadRecord> {
        let Some((header, cells)) = self.cells(record)? else { return Ok(()) };
        let kept = header.names.iter().zip(cells).zip(&header.kept).filter(|(_, kept)| **kept);
        let members =
            kept.map(|((name, cell), _)| Ok((name.as_str(), value(Some(cell).filter(|cell| !cell.is_empty()))?)));
        let members = members.collect::<Result<Vec<_>, BadRecord>>()?;
        object::write(members.iter().map(|(name, value)| (*name, value.as_ref())), out).map_err(|_| unwritable())
    }
}

impl Header {
    fn read(mut cells: Vec<&str>, files: &UserFiles) -> Result<Self, BadRecord> {
        table::fit_header(&mut cells);
        let is_quoted = cells.iter().any(|cell| unquoted(cell).len() != cell.len());
        let mut names: Vec<_> = cells.iter().map(|cell| unquoted(cell.trim()).trim().to_owned()).collect();
        let id = |wanted| names.iter().position(|name| Id::named(name) == Some(wanted));
        let (login, visitor) = (id(Id::Login), id(Id::Visitor));
        let find = |variable: &str| match Id::named(variable) {
            Some(Id::Login) => login,
            Some(Id::Visitor) => visitor,
            None => {
                let exact = names.iter().position(|name| name == variable);
                exact.or_else(|| names.iter().position(|name| name.eq_ignore_ascii_case(variable)))
            }
        };
        let (ask, selection) = (&files.ask, &files.selection);
        let columns: BTreeMap<_, _> =
            ask.columns.iter().filter_map(|(column, variable)| Some((*column, find(variable)?))).collect();
        let attributes: BTreeMap<_, _> =
            ask.attributes.iter().filter_map(|(member, variable)| Some((member.clone(), find(variable)?))).collect();
        let is_id = |index: usize| Some(index) == login || Some(index) == visitor;
        let maps_id = [UserColumn::UserId, UserColumn::VendorUserId].iter().any(|id| columns.contains_key(id));
        if login.is_none() && visitor.is_none() && !maps_id {
            return Err(BadRecord("the first row names no column of user ids".into()));
        }
        let shown = |index: &usize| {
            columns.values().any(|shown| shown == index) || attributes.values().any(|shown| shown == index)
        };
        let others = (0..names.len()).filter(|index| !is_id(*index) && !shown(index));
        let all_attributes = selection.wants(UserColumn::Attributes) == Wanted::Whole;
        let others: Vec<_> = others.filter(|_| all_attributes).collect();
        let wants = |column| selection.wants(column) != Wanted::No;
        let wants_id = |index: usize| {
            let wants_all = wants(UserColumn::Identities);
            (Some(index) == login && (wants_all || wants(UserColumn::UserId)))
                || (Some(index) == visitor && (wants_all || wants(UserColumn::VendorUserId)))
        };
        let kept = (0..names.len())
            .map(|index| selection.is_everything() || wants_id(index) || shown(&index) || others.contains(&index));
        let kept = kept.collect();
        distinct(&mut names);
        // An attribute of the caller's naming beats a column of that name.
        let others = others.into_iter().filter(|index| !attributes.contains_key(&names[*index])).collect();
        Ok(Self { names, login, visitor, columns, attributes, others, kept, is_quoted })
    }
}

/// A cell without the quotes around it. Smart quotes, as some of the documents' samples have them, are text.
fn unquoted(cell: &str) -> &str {
    cell.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(cell)
}

fn value(cell: Option<&str>) -> Result<Cow<'static, RawValue>, BadRecord> {
    match cell {
        Some(text) => to_raw_value(text).map(Cow::Owned).map_err(|_| unwritable()),
        None => Ok(Cow::Borrowed(RawValue::NULL)),
    }
}

const fn unwritable() -> BadRecord {
    BadRecord(Cow::Borrowed("it cannot be written as JSON"))
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
