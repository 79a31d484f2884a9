use serde_json::json;

use super::*;
use crate::vendors::growingio::sandbox::{
    catalog,
    segments::{audience_v1, segment_id},
    users::{UserType, VARIABLES},
};

const PROJECT: &str = "/projects/nxog09md";

#[tokio::test]
async fn dashboards_show_their_charts_with_the_vendors_spelling() {
    let api = Api::start(|_| {}).await;
    let list = api.json(&format!("{PROJECT}/dashboards.json")).await;
    let updated: Vec<_> = list.as_array().unwrap().iter().map(|item| item["updatedAt"].as_str().unwrap()).collect();
    assert!(updated.is_sorted_by(|a, b| a >= b));
    assert_eq!(list.as_array().unwrap().len(), catalog::dashboards_v1().len());
    let one = api.json(&format!("{PROJECT}/dashboards/{}.json", catalog::DASHBOARD)).await;
    let charts = one["charts"].as_array().unwrap();
    assert_eq!(charts.len(), catalog::charts_v1(catalog::DASHBOARD).len());
    assert_eq!(charts[0], json!({"id": "YoX28w7R", "name": "访问趋势", "createor": "王芳", "createdAt": "2019-10-22"}));
    assert_eq!(charts.iter().filter(|chart| chart.get("creator").is_some()).count(), 1);
    let empty = api.json(&format!("{PROJECT}/dashboards/{}.json", catalog::EMPTY_DASHBOARD)).await;
    assert_eq!(empty["charts"], json!([]));
    assert_eq!(api.get(&format!("{PROJECT}/dashboards/nothing1.json")).await.status(), 404);
    api.assert_no_violations();
}

#[tokio::test]
async fn rules_are_separated_by_commas_or_tabs() {
    let api = Api::start(|_| {}).await;
    let text = api.get(&format!("{PROJECT}/rules.csv")).await.text().await.unwrap();
    assert!(text.starts_with("ruleId,eventName,eventType\nf2503700,元素_注册按钮,clck\n"), "{text}");
    assert_eq!(text.lines().count() as u64, catalog::RULES + 1);
    api.set_faults(&["growingio.rules.tab"]);
    let tabs = api.get(&format!("{PROJECT}/rules.csv")).await.text().await.unwrap();
    assert_eq!(tabs.replace('\t', ","), text);
}

#[tokio::test]
async fn a_segment_has_as_many_users_as_the_list_says() {
    let api = Api::start(|config| (config.people, config.audiences) = (70, 40)).await;
    let list = api.json(&format!("{PROJECT}/segmentations.json")).await;
    assert_eq!(list[0]["userType"], "u");
    for (item, audience) in list.as_array().unwrap().iter().zip(api.world().audiences()) {
        let path = format!("{PROJECT}/segmentations/{}/users.csv", item["id"].as_str().unwrap());
        let lines = api.get(&path).await.text().await.unwrap().lines().count() as u64;
        assert_eq!(item["userNum"], lines - 1, "{item}");
        assert_eq!(audience_v1(api.world(), audience)["size"], item["userNum"]);
    }
    api.assert_no_violations();
}

#[tokio::test]
async fn users_csv_is_separated_by_tabs() {
    let api = Api::start(|_| {}).await;
    let path = |number| format!("{PROJECT}/segmentations/{}/users.csv", segment_id(number));
    let text = api.get(&path(1)).await.text().await.unwrap();
    let mut lines = text.lines();
    let header: Vec<_> = lines.next().unwrap().split('\t').collect();
    assert_eq!(header[..4], ["访问用户ID", "cs1", "email", "phone"]);
    for (index, line) in lines.enumerate() {
        let cells: Vec<_> = line.split('\t').collect();
        assert_eq!(cells.len(), VARIABLES.len() + 2);
        let person = api.world().person(index as u64);
        let truth = person.classic_user_v1(UserType::Visitor, &MAPPING.map(|(a, b)| (a.into(), b.into())).into(), &[]);
        assert_eq!(cells[0], truth["vendor_user_id"]);
        assert_eq!([cells[1], cells[2]], [&truth["user_id"], &truth["email"]].map(|v| v.as_str().unwrap_or_default()));
    }
    let login = api.get(&path(4)).await.text().await.unwrap();
    assert!(login.starts_with("cs1\temail\t"), "{login}");
    api.set_faults(&["growingio.users.display_header=1"]);
    assert!(api.get(&path(4)).await.text().await.unwrap().starts_with("登录用户ID\temail\t"));
    assert_eq!(api.get(&path(2)).await.text().await.unwrap().lines().count(), 1, "nobody");
    assert_eq!(api.get(&path(999)).await.status(), 404);
    let keys = api.json("/v1/api/projects/nxog09md/vars/peoples").await;
    assert_eq!(keys[0]["key"], "email");
    api.assert_no_violations();
}
