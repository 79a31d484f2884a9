//! Users by their ids.

use super::*;
use crate::vendors::sandbox::people::Oddity;

const PATH: &str = "/users/export/ids";

fn with(member: &str, value: &Value) -> Value {
    json!({member: value, "fields_to_export": ["braze_id", "email", "custom_attributes"]})
}

impl Api {
    async fn by_ids(&self, body: &Value) -> Response {
        self.post(PATH, body).send().await.unwrap()
    }

    /// The bodies of the users that were found, and the ids that were not.
    async fn found(&self, body: &Value) -> (Vec<String>, Value) {
        #[derive(serde::Deserialize)]
        struct Answer {
            message: String,
            users: Vec<Box<serde_json::value::RawValue>>,
            #[serde(default)]
            invalid_user_ids: Value,
        }
        let answer = self.by_ids(body).await;
        assert_eq!(answer.status(), 201);
        let answer: Answer = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(answer.message, "success");
        (answer.users.iter().map(|user| user.get().to_owned()).collect(), answer.invalid_user_ids)
    }

    fn odd(&self, oddity: Oddity) -> Person {
        (0..25).map(|index| self.person(index)).find(|person| person.oddity == oddity).unwrap()
    }
}

#[tokio::test]
async fn everybody_is_found_by_every_kind_of_id() {
    let api = Api::start(|_| {}).await;
    let alias = api.odd(Oddity::Aliases);
    let (label, name) = alias.aliases[0].clone();
    let device = api.odd(Oddity::Devices);
    let number = api.odd(Oddity::Numbers);
    let phone = (0..25).map(|index| api.person(index)).find(|person| person.phone.is_some()).unwrap();
    let email = api.person(0);
    let cases = [
        (with("external_ids", &json!([number.user_id])), &number),
        (with("user_aliases", &json!([{"alias_label": label, "alias_name": name}])), &alias),
        (with("braze_id", &json!(alias.braze_id())), &alias),
        (with("device_id", &json!(format!("d-{}", device.index))), &device),
        (with("email_address", &json!(email.email)), &email),
        (with("phone", &json!(phone.phone)), &phone),
    ];
    for (body, person) in cases {
        let (users, unknown) = api.found(&body).await;
        assert_eq!((users, unknown), (vec![person.braze(&asked())], Value::Null), "{body}");
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn unknown_ids_are_named_and_users_may_be_empty() {
    let api = Api::start(|_| {}).await;
    let (users, unknown) = api.found(&with("external_ids", &json!(["user-0", "user-00", "nobody-2"]))).await;
    assert_eq!((users.len(), unknown), (1, json!(["user-00", "nobody-2"])));
    assert_eq!(api.found(&with("email_address", &json!("x@example.test"))).await.0, Vec::<String>::new());
}

#[tokio::test]
async fn requests_by_id_that_braze_would_refuse_are_refused() {
    let api = Api::start(|_| {}).await;
    let ids: Vec<_> = (0..49).map(|number| format!("user-{number}")).collect();
    let alias = json!({"alias_label": "crm", "alias_name": "C-1"});
    let both = |aliases: &[Value]| json!({"external_ids": ids, "user_aliases": aliases, "fields_to_export": ["email"]});
    assert_eq!(api.by_ids(&both(std::slice::from_ref(&alias))).await.status(), 201);
    let too_many = api.by_ids(&both(&[alias.clone(), alias])).await;
    assert_eq!(too_many.status(), 400);
    let message = "The max number of external_ids and aliases per request was exceeded";
    assert_eq!(too_many.json::<Value>().await.unwrap()["message"], message);

    let bad = [
        json!({"external_ids": ["user-0"]}),
        json!({"external_ids": ["user-0"], "fields_to_export": []}),
        json!({"external_ids": ["user-0"], "fields_to_export": ["shoe_size"]}),
        json!({"external_ids": "user-0", "fields_to_export": ["email"]}),
        json!({"user_aliases": [{"alias_name": "x"}], "fields_to_export": ["email"]}),
        json!({"email_address": "a@example.test", "phone": "+1", "fields_to_export": ["email"]}),
        json!({"braze_id": 7, "fields_to_export": ["email"]}),
        json!({"fields_to_export": ["email"]}),
    ];
    for (number, body) in bad.iter().enumerate() {
        assert_eq!(api.by_ids(body).await.status(), 400, "{body}");
        assert_eq!(api.activity().violation_count, number as u64 + 2, "{body}");
    }
    let extra =
        json!({"external_ids": ["user-0"], "fields_to_export": ["email"], "custom_attributes_to_export": ["plan"]});
    assert_eq!(api.by_ids(&extra).await.status(), 201);
    assert_eq!(api.activity().violations.last().unwrap(), "`custom_attributes_to_export` is not documented");
    let without = api.http.post(api.at(PATH)).bearer_auth(API_KEY_WITHOUT_EXPORT).json(&extra).send().await.unwrap();
    assert_eq!(without.status(), 403);
}

#[tokio::test]
async fn few_fields_are_faster() {
    let api = Api::start(|_| {}).await;
    let limit = |fields: Value| {
        let body = json!({"external_ids": ["user-0"], "fields_to_export": fields});
        let api = &api;
        async move { api.by_ids(&body).await.headers()["x-ratelimit-limit"].to_str().unwrap().to_owned() }
    };
    assert_eq!(limit(json!(["email"])).await, "40");
    assert_eq!(limit(json!(["email", "campaigns_received"])).await, "250");
    assert_eq!(limit(json!(["canvases_received"])).await, "250");
}
