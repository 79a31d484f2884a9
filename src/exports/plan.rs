//! What decides what a result holds. Two exports of the same plan would get the same files at the same moment, whoever
//! asks for them, so they may share one vendor export; exports of different plans never do.

use serde_json::{Value, json};

use super::{canonical, record::ConnectionRecord, request::Output};
use crate::exports::request::Dataset;

/// Grows when the same plan would give other files than before: what was made by another version is not shared.
const VERSION: u32 = 1;

/// A plan as it takes effect. Whatever else comes to decide over the contents of a result (which fields a caller may
/// see, what is masked) belongs in here, and nowhere else.
#[derive(Debug, Clone, Copy)]
pub struct EffectivePlan<'a> {
    /// With its settings, its mapping and the version of its credentials: other credentials may see other data.
    pub connection: &'a ConnectionRecord,
    pub dataset: Dataset,
    pub parameters: &'a Value,
    pub output: Output,
}

impl EffectivePlan<'_> {
    /// A digest that only equal plans share.
    pub fn sha256(&self) -> [u8; 32] {
        let connection = self.connection;
        canonical::sha256(&json!({
            "version": VERSION,
            "connection": {
                "id": connection.connection_id,
                "credentials": connection.credential_version,
                "settings": connection.settings,
                "mapping": connection.mapping,
            },
            "dataset": self.dataset,
            "parameters": self.parameters,
            "output": self.output,
        }))
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use sqlx::types::Json;

    use super::*;
    use crate::{
        exports::{
            record::Health,
            request::{Compression, Format},
        },
        ids::ConnectionId,
    };

    fn connection() -> ConnectionRecord {
        ConnectionRecord {
            connection_id: ConnectionId(uuid::Uuid::nil()),
            name: "a".into(),
            vendor: "v".into(),
            display_name: "A".into(),
            settings: json!({"base_url": "https://a.example"}),
            mapping: Json([("email".to_owned(), "mail".into())].into()),
            health: Health::Unknown,
            health_detail: None,
            health_checked_at: None,
            credential_version: 1,
            created_at: DateTime::UNIX_EPOCH,
            updated_at: DateTime::UNIX_EPOCH,
        }
    }

    fn digest(connection: &ConnectionRecord, parameters: &Value, output: Output) -> [u8; 32] {
        EffectivePlan { connection, dataset: Dataset::AudienceMembers, parameters, output }.sha256()
    }

    #[test]
    fn the_order_of_members_and_what_does_not_touch_the_result_make_no_difference() {
        let plan = digest(&connection(), &json!({"a": 1, "b": 2}), Output::default());
        let renamed = ConnectionRecord {
            name: "b".into(),
            display_name: "B".into(),
            health: Health::Healthy,
            updated_at: DateTime::UNIX_EPOCH + chrono::TimeDelta::days(1),
            ..connection()
        };
        assert_eq!(digest(&renamed, &json!({"b": 2, "a": 1}), Output::default()), plan);
    }

    #[test]
    fn everything_that_touches_the_result_makes_a_difference() {
        let parameters = json!({"a": 1});
        let plan = digest(&connection(), &parameters, Output::default());
        let others = [
            ConnectionRecord { connection_id: ConnectionId(uuid::Uuid::max()), ..connection() },
            ConnectionRecord { settings: json!({"base_url": "https://b.example"}), ..connection() },
            ConnectionRecord { mapping: Json([("email".to_owned(), "other".into())].into()), ..connection() },
            ConnectionRecord { credential_version: 2, ..connection() },
        ];
        for other in &others {
            assert_ne!(digest(other, &parameters, Output::default()), plan, "{other:?}");
        }
        assert_ne!(digest(&connection(), &json!({"a": 2}), Output::default()), plan);
        for output in [
            Output { format: Format::Csv, ..Output::default() },
            Output { compression: Compression::Gzip, ..Output::default() },
            Output { ordered: true, ..Output::default() },
        ] {
            assert_ne!(digest(&connection(), &parameters, output), plan, "{output:?}");
        }
    }
}
