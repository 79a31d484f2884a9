use serde_json::{Value, json};

use super::*;

fn row(thing: Thing, json: &str) -> Value {
    serde_json::to_value(things(thing, json.as_bytes()).unwrap()).unwrap()
}

#[test]
fn the_two_descriptions_of_a_segment_are_swapped() {
    let json = r#"{"id":"s","name":"n","description":"filters in words","text_description":"about it","tags":["t"],
        "created_at":"2026-01-02T03:04:05.000+00:00","updated_at":"2026-01-02","analytics_tracking_enabled":true}"#;
    assert_eq!(
        row(Thing::Segment, json),
        json!({
            "id": "s", "kind": "segment", "name": "n", "description": "about it", "size": null, "status": null,
            "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02",
            "vendor": {"description": "filters in words", "tags": ["t"], "analytics_tracking_enabled": true},
        })
    );
}

/// Quirk 32: old objects lack members.
#[test]
fn what_is_missing_is_null() {
    let old = row(Thing::Campaign, r#"{"id":"c","last_edited":"2020-01-01T00:00:00Z","name":"n"}"#);
    assert_eq!(
        old,
        json!({
            "id": "c", "kind": "campaign", "name": "n", "description": null, "size": null, "status": null,
            "created_at": null, "updated_at": "2020-01-01T00:00:00Z", "vendor": {},
        })
    );
}

#[test]
fn the_status_is_the_first_that_applies() {
    for (flags, status) in [
        (r#""archived":true,"draft":true,"enabled":true"#, "archived"),
        (r#""archived":false,"draft":true,"enabled":true"#, "draft"),
        (r#""archived":false,"draft":false,"enabled":true"#, "enabled"),
        (r#""archived":false,"draft":false,"enabled":false"#, "stopped"),
    ] {
        let row = row(Thing::Canvas, &format!(r#"{{"id":"c","name":"n",{flags}}}"#));
        assert_eq!((row["status"].as_str(), &row["vendor"]), (Some(status), &json!({})), "{flags}");
    }
}

#[test]
fn an_event_is_its_name_or_an_object() {
    let name = row(Thing::Event, r#""Added \"it\"""#);
    assert_eq!((&name["id"], &name["name"]), (&json!("Added \"it\""), &json!("Added \"it\"")));
    let event = row(Thing::Event, r#"{"name":"e","description":"d","status":"Active","tag_names":[]}"#);
    assert_eq!(
        (&event["id"], &event["description"], &event["status"], &event["vendor"]),
        (&json!("e"), &json!("d"), &json!("Active"), &json!({"tag_names": []}))
    );
    let mut vendor = Vec::new();
    Things(Thing::Event).vendor(br#""e""#, &mut vendor).unwrap();
    assert_eq!(vendor, br#"{"name":"e"}"#);
    assert!(things(Thing::Segment, b"[1]").is_err());
}
