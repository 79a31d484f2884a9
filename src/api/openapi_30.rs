//! OpenAPI 3.1 → 3.0.3, for generators that know only the older one. The dialects differ in the schemas: 3.1 uses JSON
//! Schema as it is, 3.0 its own older variant.

use serde_json::{Map, Value, json};

/// The 3.0.3 document that says the same as a 3.1 document of ours.
pub fn convert(mut document: Value) -> Value {
    document["openapi"] = "3.0.3".into();
    if let Some(root) = document.as_object_mut() {
        root.shift_remove("jsonSchemaDialect");
        root.shift_remove("webhooks");
    }
    if let Some(license) = document.pointer_mut("/info/license").and_then(Value::as_object_mut) {
        license.shift_remove("identifier");
    }
    if let Some(info) = document["info"].as_object_mut() {
        info.shift_remove("summary");
    }
    walk(&mut document);
    document
}

/// Finds the schemas of everything but schemas.
fn walk(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match name.as_str() {
                    "schema" => schema(member),
                    "schemas" => each(member, schema),
                    "security" => without_scopes(member),
                    "example" | "examples" => {}
                    _ => walk(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(walk),
        _ => {}
    }
}

/// 3.1 lets a bearer token name scopes; 3.0 does only for OAuth 2.
fn without_scopes(security: &mut Value) {
    for requirement in security.as_array_mut().into_iter().flatten() {
        each(requirement, |scopes| *scopes = json!([]));
    }
}

fn each(value: &mut Value, mut change: impl FnMut(&mut Value)) {
    match value {
        Value::Object(members) => members.values_mut().for_each(&mut change),
        Value::Array(items) => items.iter_mut().for_each(&mut change),
        _ => {}
    }
}

/// Rewrites one schema and those within it.
fn schema(value: &mut Value) {
    if let Value::Bool(anything) = *value {
        *value = if anything { json!({}) } else { json!({"not": {}}) };
        return;
    }
    let Some(members) = value.as_object_mut() else { return };
    for (name, member) in members.iter_mut() {
        match name.as_str() {
            "properties" | "oneOf" | "anyOf" | "allOf" => each(member, schema),
            "items" | "not" => schema(member),
            // A boolean is fine here in 3.0 too.
            "additionalProperties" if member.is_object() => schema(member),
            _ => {}
        }
    }
    null_types(members);
    null_alternatives(members);
    keywords(members);
    reference(members);
}

/// `type: [t, "null"]` → `type: t, nullable: true`.
fn null_types(members: &mut Map<String, Value>) {
    let Some(Value::Array(types)) = members.get_mut("type") else { return };
    let before = types.len();
    types.retain(|name| name != "null");
    let nullable = types.len() < before;
    if let [only] = types.as_slice() {
        let only = only.clone();
        members.insert("type".into(), only);
    } else {
        let alternatives: Vec<_> = types.iter().map(|name| json!({"type": name})).collect();
        members.shift_remove("type");
        members.insert("anyOf".into(), alternatives.into());
    }
    if nullable {
        members.insert("nullable".into(), true.into());
    }
}

/// `oneOf: [{type: null}, s]` → `allOf: [s], nullable: true`.
fn null_alternatives(members: &mut Map<String, Value>) {
    for keyword in ["oneOf", "anyOf"] {
        let Some(Value::Array(alternatives)) = members.get_mut(keyword) else { continue };
        let before = alternatives.len();
        alternatives.retain(|alternative| alternative.get("type").is_none_or(|kind| kind != "null"));
        if alternatives.len() == before {
            continue;
        }
        if alternatives.len() == 1
            && let Some(alternatives) = members.shift_remove(keyword)
        {
            members.insert("allOf".into(), alternatives);
        }
        members.insert("nullable".into(), true.into());
    }
}

/// Keywords that 3.0 writes otherwise or does not have.
fn keywords(members: &mut Map<String, Value>) {
    if let Some(value) = members.shift_remove("const") {
        members.insert("enum".into(), json!([value]));
    }
    if let Some(Value::Array(examples)) = members.shift_remove("examples")
        && let Some(first) = examples.into_iter().next()
    {
        members.insert("example".into(), first);
    }
    for (exclusive, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if let Some(limit @ Value::Number(_)) = members.get(exclusive).cloned() {
            members.insert(bound.into(), limit);
            members.insert(exclusive.into(), true.into());
        }
    }
    let binary = match members.shift_remove("contentEncoding") {
        Some(encoding) if encoding == "base64" => Some("byte"),
        _ => members.contains_key("contentMediaType").then_some("binary"),
    };
    members.shift_remove("contentMediaType");
    if let Some(format) = binary {
        members.entry("type").or_insert_with(|| "string".into());
        members.insert("format".into(), format.into());
    }
    if members.shift_remove("prefixItems").is_some() {
        members.entry("items").or_insert_with(|| json!({}));
    }
    for unknown in ["propertyNames", "patternProperties", "$schema", "$defs", "$comment", "if", "then", "else"] {
        members.shift_remove(unknown);
    }
    if members.get("type").is_some_and(|kind| kind == "array") {
        members.entry("items").or_insert_with(|| json!({}));
    }
}

/// In 3.0 whatever stands beside a `$ref` is ignored.
fn reference(members: &mut Map<String, Value>) {
    if members.len() > 1
        && let Some(target) = members.shift_remove("$ref")
    {
        members.insert("allOf".into(), json!([{"$ref": target}]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(mut value: Value) -> Value {
        schema(&mut value);
        value
    }

    #[test]
    fn null_becomes_nullable() {
        assert_eq!(converted(json!({"type": ["string", "null"]})), json!({"type": "string", "nullable": true}));
        assert_eq!(
            converted(json!({"oneOf": [{"type": "null"}, {"$ref": "#/x"}], "description": "d"})),
            json!({"description": "d", "allOf": [{"$ref": "#/x"}], "nullable": true})
        );
        assert_eq!(
            converted(json!({"type": ["string", "integer", "null"]})),
            json!({"anyOf": [{"type": "string"}, {"type": "integer"}], "nullable": true})
        );
    }

    #[test]
    fn keywords_are_written_the_old_way() {
        assert_eq!(converted(json!({"const": "a"})), json!({"enum": ["a"]}));
        assert_eq!(converted(json!({"type": "integer", "examples": [1, 2]})), json!({"type": "integer", "example": 1}));
        assert_eq!(
            converted(json!({"type": "integer", "exclusiveMinimum": 0})),
            json!({"type": "integer", "exclusiveMinimum": true, "minimum": 0})
        );
        assert_eq!(
            converted(json!({"contentMediaType": "application/octet-stream"})),
            json!({"type": "string", "format": "binary"})
        );
        assert_eq!(
            converted(json!({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": true})),
            json!({"type": "object", "additionalProperties": true})
        );
        assert_eq!(converted(json!({"type": "array", "items": true})), json!({"type": "array", "items": {}}));
    }

    #[test]
    fn what_stands_beside_a_reference_is_kept() {
        assert_eq!(
            converted(json!({"$ref": "#/x", "description": "d"})),
            json!({"description": "d", "allOf": [{"$ref": "#/x"}]})
        );
        assert_eq!(converted(json!({"$ref": "#/x"})), json!({"$ref": "#/x"}));
    }

    #[test]
    fn schemas_are_found_wherever_they_are_and_examples_left_alone() {
        let document = convert(json!({
            "openapi": "3.1.0",
            "info": {"license": {"name": "n", "identifier": "i"}},
            "paths": {"/a": {"get": {
                "security": [{"bearer": ["exports:read"]}],
                "parameters": [{"schema": {"type": ["string", "null"]}}],
                "responses": {"200": {"content": {"x": {
                    "schema": {"properties": {"type": {"type": ["integer", "null"]}}},
                    "example": {"type": ["string", "null"], "schema": {"const": 1}},
                }}}},
            }}},
            "components": {"schemas": {"A": {"items": {"const": 1}}}},
        }));
        let get = &document["paths"]["/a"]["get"];
        assert_eq!(get["security"], json!([{"bearer": []}]));
        assert_eq!(get["parameters"][0]["schema"]["nullable"], true);
        let content = &get["responses"]["200"]["content"]["x"];
        assert_eq!(content["schema"]["properties"]["type"], json!({"type": "integer", "nullable": true}));
        assert_eq!(content["example"]["type"], json!(["string", "null"]));
        assert_eq!(document["components"]["schemas"]["A"]["items"], json!({"enum": [1]}));
        assert_eq!(document["info"]["license"], json!({"name": "n"}));
    }
}
