//! Lists, paged users, the query for one user, and computations.

use super::*;

const SEGMENTS: &str = "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/segment_profiles";
const USERS: &str = "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/users";

impl Api {
    async fn json(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// The answer to a call that is refused.
    async fn refused(&self, path: &str) -> String {
        let answer = self.get(path).await;
        assert_eq!(answer.status(), 500, "{path}");
        answer.text().await.unwrap()
    }

    async fn compute(&self, path: &str) -> Value {
        let answer = self.http.post(self.at(path)).bearer_auth(TOKEN).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    }

    /// What the list says of the third segment.
    async fn detector(&self) -> Value {
        self.json(&format!("{SEGMENTS}?limit=1&offset=2")).await["values"][0]["detector"].clone()
    }

    async fn stage(&self, wanted: &str) -> Value {
        until(|| async { Some(self.detector().await).filter(|detector| detector["stage"] == wanted) }).await
    }
}

/// The value of a member in every entry.
fn each(page: &Value, member: &str) -> Vec<String> {
    page["values"].as_array().unwrap().iter().map(|entry| entry[member].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_documented_path_lists_and_the_data_centre_has_no_segments() {
    let api = Api::start(|_| {}).await;
    for path in [
        "/v1/api/user_tags",
        "/v1/api/projects/WlGk4Daj/user_tags",
        "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags",
        "/v1/api/projects/WlGk4Daj/segment_profiles",
        SEGMENTS,
    ] {
        assert_eq!(api.json(path).await["values"].as_array().unwrap().len(), 250, "{path}");
        let key = if path.ends_with("tags") { "tag_rfm" } else { "seg_rfm" };
        assert_eq!(api.json(&format!("{path}/{key}/users")).await["values"].as_array().unwrap().len(), 25, "{path}");
    }
    assert_eq!(api.activity().violation_count, 0);
    assert_eq!(api.get("/v1/api/segment_profiles").await.status(), 404);
    assert_eq!(api.get("/v1/api/segment_profiles/seg_rfm/users").await.status(), 404);
    assert_eq!(api.activity().violation_count, 2);
}

#[tokio::test]
async fn entries_of_the_lists_have_the_documented_members() {
    let api = Api::start(|_| {}).await;
    let members = |entry: &Value| entry.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let tag = &api.json("/v1/api/user_tags").await["values"][0];
    assert_eq!(
        members(tag),
        "id name key type valueType description detector creatorId creator createdAt updaterId updater updatedAt"
    );
    let segments = api.json(SEGMENTS).await;
    assert_eq!(
        members(&segments["values"][0]),
        "id name key createdBy scheduler description detector creatorId creator createdAt updaterId updater updatedAt"
    );
    assert_eq!(segments["values"][0]["detector"], json!({"stage": "FINISH", "detectedAt": "2026-03-01T02:00:00.417Z"}));
    let stages: std::collections::BTreeSet<_> = segments["values"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["detector"]["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages.into_iter().collect::<Vec<_>>(), ["ERROR", "FINISH", "NONE"]);
}

#[tokio::test]
async fn a_list_of_thousands_comes_in_pages_of_a_thousand() {
    let api = Api::start(|config| config.audiences = 2_500).await;
    let mut keys = Vec::new();
    for offset in [0, 1_000, 2_000] {
        let page = api.json(&format!("{SEGMENTS}?offset={offset}")).await;
        assert_eq!((&page["totalCount"], &page["hasNextPage"]), (&json!(2500.0), &json!(offset < 2_000)));
        keys.extend(each(&page, "key"));
    }
    assert_eq!(keys.len(), 2_500);
    assert_eq!(keys[2_499], segment_key(2_500));
    let beyond = api.json(&format!("{SEGMENTS}?offset=9000")).await;
    assert_eq!((&beyond["values"], &beyond["hasNextPage"]), (&json!([]), &json!(false)));
}

#[tokio::test]
async fn the_count_of_users_is_that_of_the_page_while_there_are_more() {
    let api = Api::start(|_| {}).await;
    let text = api.get(&format!("{SEGMENTS}/seg_rfm/users?limit=10&offset=10")).await.text().await.unwrap();
    assert!(
        text.starts_with(
            r#"{"offset":10.0,"limit":10.0,"totalCount":10.0,"hasNextPage":true,"hasPreviousPage":true,"values":["#
        ),
        "{text}"
    );
    let last = api.json(&format!("{SEGMENTS}/seg_rfm/users?limit=10&offset=20")).await;
    assert_eq!((&last["totalCount"], &last["hasNextPage"]), (&json!(5.0), &json!(false)));
}

#[tokio::test]
async fn users_have_lists_of_identities_and_text_for_everything_else() {
    let api = Api::start(|_| {}).await;
    let asked = "properties[]=ids_%24basic_userId&properties%5B%5D=usr_age&properties[]=usr_note";
    let page = api.json(&format!("{SEGMENTS}/seg_rfm/users?{asked}")).await;
    for (index, user) in page["values"].as_array().unwrap().iter().enumerate() {
        let person = api.sandbox.world().person(index as u64);
        let ids = person.user_id.as_ref().map_or(json!({}), |id| json!({"id_$basic_userId": [id]}));
        let age = person.age.map(|age| age.to_string());
        assert_eq!(
            *user,
            json!({
                "gioId": person.gio_id().to_string(),
                "identifications": ids,
                "properties": {"usr_age": age, "usr_note": person.note},
            })
        );
    }
    let bare = api.json(&format!("{SEGMENTS}/seg_3/users?limit=1")).await;
    assert_eq!(bare["values"], json!([{"gioId": "600000", "identifications": {}, "properties": {}}]));
}

#[tokio::test]
async fn what_a_query_may_not_ask_is_refused_in_plain_text() {
    let api = Api::start(|_| {}).await;
    let many = vec!["properties[]=usr_age"; 21].join("&");
    for path in [
        format!("{SEGMENTS}/seg_rfm/users?{many}"),
        format!("{SEGMENTS}/seg_rfm/users?limit=1001"),
        format!("{SEGMENTS}?limit=0"),
        format!("{SEGMENTS}?offset=-1"),
        format!("{SEGMENTS}?limit=ten"),
    ] {
        assert_eq!(api.refused(&path).await, "Internal Server Error", "{path}");
    }
    assert_eq!(api.activity().violation_count, 5);
    assert_eq!(api.refused(&format!("{SEGMENTS}/seg_undefine/users")).await, "Internal Server Error");
    assert_eq!(api.activity().violation_count, 5, "nobody can know every key");
    api.json(&format!("{SEGMENTS}?page=2")).await;
    api.json(&format!("{SEGMENTS}/seg_rfm/users?properties[]=usr_shoe_size")).await;
    let violations = api.activity().violations;
    assert_eq!(violations[5..], ["the parameter \"page\" is not documented", "there is no property \"usr_shoe_size\""]);
}

#[tokio::test]
async fn a_row_may_shift_between_two_pages() {
    for (fault, path, member) in [
        ("growingio_cdp.lists.shifted_page", format!("{SEGMENTS}?"), "key"),
        ("growingio_cdp.users.shifted_page", format!("{SEGMENTS}/seg_rfm/users?"), "gioId"),
    ] {
        let api = Api::start(|config| (config.audiences, config.faults) = (25, faults(&[fault]))).await;
        let (mut seen, mut more) = (Vec::new(), true);
        while more {
            let page = api.json(&format!("{path}limit=10&offset={}", seen.len())).await;
            more = page["hasNextPage"].as_bool().unwrap();
            seen.extend(each(&page, member));
        }
        assert_eq!(seen.len(), 26, "{fault}");
        assert_eq!(seen[9], seen[10], "{fault}");
        seen.dedup();
        assert_eq!(seen.len(), 25, "{fault}");
    }
}

#[tokio::test]
async fn one_user_is_found_by_any_identity_and_an_unknown_one_has_the_id_0() {
    let api = Api::start(|_| {}).await;
    for index in 0..16 {
        let person = api.sandbox.world().person(index);
        for (key, property) in [("$basic_userId", "id_$basic_userId"), ("$anonymous_user", "id_$anonymous_user")] {
            let Some(value) = person.property(property).flatten() else { continue };
            let value = percent_encoding::utf8_percent_encode(&value, percent_encoding::NON_ALPHANUMERIC);
            let found = api.json(&format!("{USERS}/{key}/{value}")).await;
            assert_eq!(found, person.cdp_single(), "{index}");
        }
    }
    for path in [
        format!("{USERS}/ids_$basic_userId/user-0"),
        format!("{USERS}/id_%24basic_userId/user-0"),
        "/v1/api/projects/WlGk4Daj/users/$basic_userId/user-0".to_owned(),
        "/v1/api/users/$basic_userId/user-0".to_owned(),
    ] {
        assert_eq!(api.json(&path).await["gioId"], "600000", "{path}");
    }
    for nobody in ["user-25", "user-00", "nobody", "600000"] {
        let found = api.json(&format!("{USERS}/$basic_userId/{nobody}")).await;
        assert_eq!(found, json!({"gioId": "0", "identifications": {}, "properties": {}}), "{nobody}");
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn a_computation_is_refused_while_one_runs_and_ends_with_a_newer_time() {
    let api = Api::start(|config| config.processing = Duration::from_millis(800)).await;
    let before = api.detector().await;
    let computes = format!("{SEGMENTS}/seg_3/computes");
    assert_eq!(api.compute(&computes).await, json!({"value": true, "message": "触发计算成功"}));
    assert_eq!(api.compute(&computes).await["value"], false);
    assert_eq!(api.activity().refusals["being_computed"], 1);
    let running = api.stage("RUNNING").await;
    assert_eq!(running["detectedAt"], before["detectedAt"]);
    let after = api.stage("FINISH").await;
    assert!(after["detectedAt"].as_str() > before["detectedAt"].as_str(), "{after}");
    // What was never computed waits for its turn.
    assert_eq!(api.compute(&format!("{SEGMENTS}/seg_9/computes")).await["value"], false);
    assert_eq!(api.compute(&format!("{SEGMENTS}/seg_13/computes")).await["value"], true, "after an error");
}

#[tokio::test]
async fn computations_have_the_documented_paths_only() {
    let api = Api::start(|_| {}).await;
    api.compute("/v1/api/projects/WlGk4Daj/user_tags/tag_rfm/computes").await;
    api.compute("/v1/api/projects/WlGk4Daj/segment_profiles/seg_rfm/computes").await;
    assert_eq!(api.activity().violation_count, 0);
    for path in
        ["/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/user_tags/tag_rfm/computes", "/v1/api/user_tags/tag_rfm/computes"]
    {
        assert_eq!(api.post(path, &json!({})).send().await.unwrap().status(), 404, "{path}");
    }
    assert_eq!(api.activity().violation_count, 2);
    let unknown = api.http.post(api.at(&format!("{SEGMENTS}/seg_undefine/computes"))).bearer_auth(TOKEN);
    assert_eq!(unknown.send().await.unwrap().text().await.unwrap(), "Internal Server Error");
}

#[tokio::test]
async fn an_export_has_the_data_of_the_newest_finished_computation() {
    let api = Api::start(|_| {}).await;
    let export = format!("{SEGMENTS}/seg_3/export_jobs");
    let body = json!({"properties": ["usr_computed_at", "usr_computation"], "fileFormat": "json"});
    let exported = async || {
        let id = api.post(&export, &body).send().await.unwrap().json::<Value>().await.unwrap()["id"].clone();
        let uri = api.uris(id.as_str().unwrap()).await.remove(0);
        let line = lines(api.get(&format!("/download?file={uri}")).await).await.remove(0);
        serde_json::from_str::<Value>(&line).unwrap()["properties"].clone()
    };
    let before = api.detector().await["detectedAt"].clone();
    assert_eq!(exported().await, json!({"usr_computed_at": before, "usr_computation": "scheduled"}));

    // A computation that fails leaves the data as they are.
    api.sandbox.world().set_faults(faults(&["growingio_cdp.computes.fails=1"]));
    let computes = format!("{SEGMENTS}/seg_3/computes");
    api.compute(&computes).await;
    let failed = api.stage("ERROR").await;
    assert!(failed["detectedAt"].as_str() > before.as_str());
    assert_eq!(exported().await["usr_computed_at"], before);

    api.compute(&computes).await;
    let after = api.stage("FINISH").await["detectedAt"].clone();
    assert_eq!(exported().await, json!({"usr_computed_at": after, "usr_computation": "requested"}));
    let page = api.json(&format!("{SEGMENTS}/seg_3/users?properties[]=usr_computed_at")).await;
    assert_eq!(page["values"][0]["properties"]["usr_computed_at"], after);
}

#[tokio::test]
async fn computations_may_be_refused_never_end_or_show_late() {
    let api = Api::with(&["growingio_cdp.computes.refused=1", "growingio_cdp.computes.never_ends=1"]).await;
    let computes = format!("{SEGMENTS}/seg_3/computes");
    let before = api.detector().await;
    assert_eq!(api.compute(&computes).await["value"], false);
    assert_eq!(api.compute(&computes).await["value"], true);
    assert_eq!(api.detector().await["stage"], "RUNNING");
    api.sandbox.world().set_faults(faults(&["growingio_cdp.lists.stale=1"]));
    assert_eq!(api.detector().await, before, "finished, as of the computation before");
    assert_eq!(api.detector().await["stage"], "RUNNING");
}

#[tokio::test]
async fn projects_and_spaces_are_listed_and_other_methods_are_not_documented() {
    let api = Api::start(|_| {}).await;
    assert_eq!(api.json("/v1/api/projects").await[0]["id"], PROJECT);
    let enterprise = "/v2/api/enterprise/rRGoYQml/projects";
    assert_eq!(api.json(enterprise).await[0], json!({"id": PROJECT, "name": "默认项目", "ownerId": "KzpNzpkv"}));
    assert_eq!(api.json(&format!("{enterprise}/{PROJECT}/spaces")).await[0]["id"], SPACE);
    assert_eq!(api.refused(&format!("{enterprise}/Elsewhere/spaces")).await, "Internal Server Error");
    assert_eq!(api.refused("/v2/api/enterprise/Elsewhere/projects").await, "Internal Server Error");
    assert_eq!(api.activity().violation_count, 0);
    assert_eq!(api.get(&format!("{SEGMENTS}/seg_rfm/export_jobs")).await.status(), 404);
    assert_eq!(api.post(SEGMENTS, &json!({})).send().await.unwrap().status(), 404);
    assert_eq!(api.activity().violation_count, 2);
}
