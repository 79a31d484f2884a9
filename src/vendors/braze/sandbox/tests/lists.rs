//! Lists and details.

use super::*;

impl Api {
    /// Every row of a list that is read page by page until one is short.
    async fn pages(&self, path: &str, member: &str, size: usize) -> (Vec<Value>, usize) {
        let mut rows = Vec::new();
        let sign = if path.contains('?') { '&' } else { '?' };
        for page in 0.. {
            let answer = self.read(&format!("{path}{sign}page={page}")).await;
            let more = answer[member].as_array().unwrap();
            rows.extend(more.iter().cloned());
            if more.len() < size {
                return (rows, page + 1);
            }
        }
        unreachable!()
    }
}

#[tokio::test]
async fn lists_end_with_a_short_page_also_when_the_last_one_is_full() {
    let api = Api::start(|_| {}).await;
    for (path, member, size, count, pages) in [
        ("/segments/list", "segments", 100, 250, 3),
        ("/campaigns/list", "campaigns", 100, 240, 3),
        ("/campaigns/list?include_archived=true", "campaigns", 100, 260, 3),
        ("/canvas/list", "canvases", 100, 200, 3),
        ("/canvas/list?include_archived=true", "canvases", 100, 215, 3),
        ("/events/list", "events", 250, 500, 3),
        ("/purchases/product_list", "products", 100, 130, 2),
    ] {
        let (rows, read) = api.pages(path, member, size).await;
        let distinct: std::collections::BTreeSet<_> = rows.iter().map(Value::to_string).collect();
        assert_eq!((rows.len(), distinct.len(), read), (count, count, pages), "{path}");
    }
    assert_eq!(api.activity().violation_count, 0);
}

#[tokio::test]
async fn a_row_that_moves_between_two_pages_appears_twice_and_none_is_lost() {
    let api = Api::with(&["braze.lists.row_moves=1"]).await;
    let (rows, _) = api.pages("/campaigns/list", "campaigns", 100).await;
    let distinct: std::collections::BTreeSet<_> = rows.iter().map(|row| row["id"].to_string()).collect();
    assert_eq!((rows.len(), distinct.len()), (241, 240));
    let (rows, _) = api.pages("/campaigns/list", "campaigns", 100).await;
    assert_eq!(rows.len(), 240, "a new reading begins in order");
}

#[tokio::test]
async fn lists_are_sorted_and_filtered_by_their_last_edit() {
    let api = Api::start(|_| {}).await;
    let first = api.read("/campaigns/list").await["campaigns"][0].clone();
    let (rows, _) = api.pages("/campaigns/list?sort_direction=desc", "campaigns", 100).await;
    assert_eq!(rows.last(), Some(&first));
    let after = "2024-07-01T00:00:00";
    let path = format!("/campaigns/list?last_edit.time%5Bgt%5D={}", after.replace(':', "%3A"));
    let (rows, _) = api.pages(&path, "campaigns", 100).await;
    assert!(!rows.is_empty() && rows.len() < 240);
    assert!(rows.iter().all(|row| row["last_edited"].as_str().unwrap() > after));
    assert_eq!(api.activity().violation_count, 0);
    // A client may not leave the brackets as they are.
    let raw = format!("{}?last_edit.time[gt]={after}", api.at("/canvas/list"));
    assert_eq!(api.http.get(raw).bearer_auth(API_KEY).send().await.unwrap().status(), 400);
    assert_eq!(api.call("/canvas/list?last_edit.time%5Bgt%5D=2024-07-01").await.status(), 400);
    assert_eq!(api.activity().violation_count, 2);
}

#[tokio::test]
async fn old_objects_lack_members() {
    let api = Api::start(|_| {}).await;
    for (path, member, name) in [
        ("/segments/list", "segments", "tags"),
        ("/campaigns/list", "campaigns", "tags"),
        ("/campaigns/list", "campaigns", "is_api_campaign"),
        ("/canvas/list", "canvases", "tags"),
    ] {
        let answer = api.read(path).await;
        let rows = answer[member].as_array().unwrap();
        let old = rows.iter().filter(|row| row.get(name).is_none()).count();
        assert!((8..=12).contains(&old), "{path} {name}: {old}");
    }
}

#[tokio::test]
async fn details_are_flat_and_unknown_ids_are_refused() {
    let api = Api::start(|_| {}).await;
    let campaign = campaigns::listed(false)[1].id();
    let details = api.read(&format!("/campaigns/details?campaign_id={campaign}&post_launch_draft_version=true")).await;
    assert_eq!(details["message"], "success");
    for name in ["created_at", "archived", "channels", "messages", "conversion_behaviors", "tags", "teams"] {
        assert!(details.get(name).is_some(), "{name}");
    }
    let canvas = canvases::listed(false)[1].id();
    let details = api.read(&format!("/canvas/details?canvas_id={canvas}")).await;
    assert_eq!((details["variants"].as_array().unwrap().len(), details["steps"].as_array().unwrap().len()), (2, 3));
    let details = api.read(&format!("/segments/details?segment_id={}", segment_id(1))).await;
    assert_eq!(details["name"], "Everybody");
    assert!(details["text_description"].is_string() && details["description"].is_string());
    assert_eq!(api.activity().violation_count, 0);

    for path in
        ["/campaigns/details?campaign_id=x", "/canvas/details?canvas_id=%C3%A9%C3%A9", "/segments/details?segment_id="]
    {
        let refused = api.call(path).await;
        assert_eq!(refused.status(), 400, "{path}");
        assert!(refused.json::<Value>().await.unwrap()["message"].as_str().unwrap().contains("api identifier"));
    }
    assert_eq!(api.activity().violation_count, 0);
    assert_eq!(api.call("/campaigns/details").await.status(), 400);
    assert_eq!(api.activity().violation_count, 1);
}

#[tokio::test]
async fn descriptions_come_fifty_a_page_with_a_cursor_in_the_link_header() {
    let api = Api::start(|_| {}).await;
    for (path, member, count, calls) in [("/events", "events", 500, 10), ("/custom_attributes", "attributes", 120, 3)] {
        let (mut next, mut names, mut read) = (path.to_owned(), Vec::new(), 0);
        loop {
            let answer = api.call(&next).await;
            let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
            let body: Value = answer.json().await.unwrap();
            names.extend(body[member].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()));
            read += 1;
            let links = link.unwrap_or_default();
            let Some(link) = links.split(',').find(|link| link.ends_with("rel=\"next\"")) else { break };
            next = link.trim_start_matches('<').split('>').next().unwrap().to_owned();
            assert!(next.starts_with(&format!("{path}?cursor=")) && !next.contains("=="), "{next}");
        }
        assert_eq!((names.len(), read), (count, calls), "{path}");
        assert!(names.is_sorted());
    }
    assert_eq!(api.activity().violation_count, 0);
    assert_eq!(api.call("/events?cursor=50").await.status(), 400);
    api.sandbox.world().set_faults(faults(&["braze.lists.next_elsewhere=http://127.0.0.1:9/events"]));
    let answer = api.call("/events").await;
    assert!(answer.headers()["link"].to_str().unwrap().starts_with("<http://127.0.0.1:9/events?cursor="));
}
