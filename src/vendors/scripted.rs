//! For tests: an HTTP server that gives prepared answers in order and remembers what it was asked.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use chrono::Utc;
use secrecy::SecretString;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

use super::{
    Account, Inquiry, Mapping, Pending, Ticket,
    http::{Http, Timeouts},
    shared::Alone,
};
use crate::egress::EgressPolicy;
use crate::exports::{
    records::{Delimiter, Dialect, OwnCells},
    request::{Dataset, ExportRequest, Output},
};

/// What the server does with a request.
pub enum Reply {
    /// Sends these bytes and closes.
    Bytes(Vec<u8>),
    /// Reads the request and says nothing more for as long as the test runs.
    Silence,
}

/// An answer with a body.
pub fn reply(status: u16, headers: &[(&str, &str)], body: &str) -> Reply {
    let headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let headers = headers.concat();
    let length = body.len();
    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
    Reply::Bytes(text.into_bytes())
}

/// An answer that ends before its announced length.
pub fn cut(status: u16, body: &str) -> Reply {
    Reply::Bytes(format!("HTTP/1.1 {status} X\r\ncontent-length: 1000\r\n\r\n{body}").into_bytes())
}

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `POST /path?query`.
    pub line: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

pub struct Scripted {
    /// `http://127.0.0.1:<port>/`.
    pub url: Url,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    pub async fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&seen);
        let mut replies = VecDeque::from(replies);
        tokio::spawn(async move {
            let mut silent = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(request) = read_request(&mut stream).await else { continue };
                requests.lock().unwrap().push(request);
                match replies.pop_front() {
                    Some(Reply::Bytes(bytes)) => {
                        drop(stream.write_all(&bytes).await);
                        drop(stream.shutdown().await);
                    }
                    Some(Reply::Silence) => silent.push(stream),
                    None => {}
                }
            }
        });
        Self { url, seen }
    }

    /// Everything asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The request lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| seen.line).collect()
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).ok()?;
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(head_end + 4);
    while body.len() < length {
        stream.read_buf(&mut body).await.ok()?;
    }
    Some(Seen { line, headers, body: String::from_utf8(body).ok()? })
}

/// A client that may reach this machine.
pub fn http() -> Http {
    Http::new(permissive()).unwrap()
}

/// The same, but it soon gives up on silence.
pub fn impatient() -> Http {
    let short = Duration::from_millis(300);
    Http::with_timeouts(permissive(), Timeouts { call: short, file_idle: short, ..Timeouts::default() }).unwrap()
}

fn permissive() -> EgressPolicy {
    EgressPolicy::parse("127.0.0.1/32").unwrap()
}

/// An account with one credential.
pub fn account(settings: Value, credential: (&str, &str), mapping: &[(&str, &str)]) -> Account {
    Account {
        settings,
        credentials: BTreeMap::from([(credential.0.to_owned(), SecretString::from(credential.1))]),
        mapping: mapping.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Mapping>(),
        values: crate::exports::mapping::ValueMaps::default(),
        http: http(),
        shared: Arc::new(Alone),
    }
}

/// A checked request for the members of an audience.
pub fn members(audience: &Value, fields: &[&str]) -> ExportRequest {
    let mut parameters = serde_json::json!({ "audience": audience });
    if !fields.is_empty() {
        parameters["fields"] = serde_json::json!(fields);
    }
    ExportRequest::parse(Dataset::AudienceMembers, &parameters, Output::default()).unwrap()
}

/// An inquiry about a job that was just accepted.
pub fn job(ticket: &Ticket, seen_ready: bool) -> Inquiry<'_> {
    let now = Utc::now();
    Inquiry { of: Pending::Job(ticket), seen_ready, called_back: false, since: now, now }
}

/// An inquiry about a part that was never asked for.
pub fn part(part: &str) -> Inquiry<'_> {
    let now = Utc::now();
    Inquiry { of: Pending::Part(part), seen_ready: false, called_back: false, since: now, now }
}

/// The rows of a text, cut as its dialect says.
pub fn rows(text: &str, dialect: Dialect) -> Vec<OwnCells> {
    let tabs = match dialect.delimiter {
        Delimiter::Comma => false,
        Delimiter::Tab => true,
        Delimiter::TabOrComma => text.lines().next().unwrap_or_default().contains('\t'),
    };
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(if tabs { b'\t' } else { b',' })
        .quoting(dialect.delimiter != Delimiter::Tab)
        .escape(dialect.escape)
        .double_quote(dialect.double_quote)
        .from_reader(text.trim_start_matches('\u{feff}').as_bytes())
        .into_byte_records()
        .map(|row| row.unwrap().iter().collect())
        .collect()
}
