//! Identifiers. Each is a UUIDv7, so ids sort by creation, shown with a prefix that says what it names.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not an id of the expected kind.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a {0}_… id")]
pub struct InvalidId(&'static str);

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, later than every id this process made before.
            #[expect(clippy::new_without_default, reason = "an id is made, not defaulted")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), self.0.simple())
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|rest| Uuid::try_parse(rest).ok())
                    .map(Self)
                    .ok_or(InvalidId($prefix))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

prefixed_id!(
    /// One export job.
    ExportId,
    "exp"
);
prefixed_id!(
    /// One result file of an export.
    FileId,
    "fil"
);
prefixed_id!(
    /// One vendor account. Callers use its name; the id ties sealed credentials to it.
    ConnectionId,
    "con"
);
prefixed_id!(
    /// One place that results are delivered to. Callers use its name; the id ties sealed credentials to it.
    DestinationId,
    "dst"
);
prefixed_id!(
    /// Where a tenant wants to be told of events.
    WebhookEndpointId,
    "whe"
);
prefixed_id!(
    /// One event for one endpoint.
    DeliveryId,
    "dlv"
);
prefixed_id!(
    /// Something that happened; the `webhook-id` of its messages.
    EventId,
    "evt"
);
prefixed_id!(
    /// An export that is asked for again and again.
    ScheduleId,
    "sch"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_its_text_and_refuses_another_kind() {
        let id = ExportId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().parse::<FileId>(), Err(InvalidId("fil")));
        assert!("exp_".parse::<ExportId>().is_err());
    }
}
