//! What the documents leave open about files, how long they live, and the faults that every endpoint has.

use super::*;

#[tokio::test]
async fn csv_in_every_way_the_documents_leave_open() {
    let bytes = |fault: &'static str, body: Value| async move {
        let api = Api::with(&[fault]).await;
        api.get(&api.file(&body).await).await.bytes().await.unwrap().to_vec()
    };
    let keys = json!({"properties": properties()});
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();

    let plain = text(bytes("growingio_cdp.job.stuck=1", keys.clone()).await);
    // One person's note has line ends within its quotes.
    assert!(plain.starts_with("\"gio_id\",\"id_$basic_userId\",\"usr_gender\",\"usr_note\",\"tag_rfm\"\n\"600000\","));
    assert!(plain.contains("\"first line\nsecond \"\"line\"\"\r\nthird"), "{plain}");
    assert!(plain.contains(",,"), "what is unknown is empty and bare");

    let marked = bytes("growingio_cdp.file.bom=1", keys.clone()).await;
    assert_eq!(marked, [b"\xef\xbb\xbf", plain.as_bytes()].concat());

    let wide = bytes("growingio_cdp.file.utf16=1", keys.clone()).await;
    assert_eq!(wide[..4], [0xff, 0xfe, b'"', 0]);
    let units: Vec<_> = wide[2..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    assert_eq!(String::from_utf16(&units).unwrap(), plain);

    let bare = text(bytes("growingio_cdp.file.csv_bare_gio_id=1", keys.clone()).await);
    assert!(bare.lines().nth(1).unwrap().starts_with("600000,"));
    let backslash = text(bytes("growingio_cdp.file.csv_backslash=1", keys.clone()).await);
    assert!(backslash.contains(r#"second \"line\""#) && !backslash.contains("\"\"line"), "{backslash}");

    let names = json!({"properties": properties(), "csvHeaderType": "name"});
    let repeated = text(bytes("growingio_cdp.file.csv_repeated_names=1", names).await);
    assert_eq!(repeated.lines().next(), Some(r#""gio_id","用户ID","用户属性","用户属性","会员等级""#));
}

#[tokio::test]
async fn a_job_and_its_files_are_gone_after_a_day_of_the_vendors_clock() {
    // An hour passes in 20 ms.
    let api = Api::start(|config| config.clock.speed = 180_000.0).await;
    let id = api.begin(&order()).await;
    let path = format!("/download?file={}", api.uris(&id).await[0]);
    let (world, finished_by) = (api.sandbox.world(), api.sandbox.world().now());
    until(|| async { (world.now() > finished_by + chrono::TimeDelta::hours(24)).then_some(()) }).await;
    assert_eq!(api.get(&format!("/v1/api/job/result/{id}")).await.status(), 404);
    assert_eq!(api.get(&format!("/v1/api/projects/WlGk4Daj/job/result/{id}")).await.status(), 404);
    assert_eq!(api.get(&path).await.status(), 404);

    let api = Api::start(|_| {}).await;
    let id = api.begin(&order()).await;
    api.uris(&id).await;
    assert_eq!(api.get(&format!("/v1/api/job/result/{id}")).await.status(), 200);
}

#[tokio::test]
async fn answers_of_the_faults_of_every_endpoint() {
    let segments = "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/segment_profiles";
    let endpoints = [
        ("lists", format!("{segments}?limit=2"), false),
        ("users", format!("{segments}/seg_3/users"), false),
        ("user", "/v1/api/projects/WlGk4Daj/spaces/VKwkPmqX/users/$basic_userId/user-0".to_owned(), false),
        ("computes", format!("{segments}/seg_3/computes"), true),
        ("analysis", "/v1/api/projects/WlGk4Daj/analysis/funnel/J1GlMVDj/chartdata".to_owned(), false),
        ("projects", "/v1/api/projects".to_owned(), false),
    ];
    let api = Api::start(|_| {}).await;
    for (thing, path, is_post) in endpoints {
        let ask = |fault: &str| {
            api.sandbox.world().set_faults(faults(&[&format!("growingio_cdp.{thing}.{fault}=1")]));
            let request = if is_post { api.http.post(api.at(&path)) } else { api.http.get(api.at(&path)) };
            async { request.bearer_auth(TOKEN).send().await.unwrap() }
        };
        let right = ask("slow").await;
        let length = right.content_length().unwrap();
        drop(right);
        for (fault, status) in [("unauthorized", 401), ("forbidden", 403), ("rate_limited", 429), ("server_error", 500)]
        {
            assert_eq!(ask(fault).await.status(), status, "{thing}.{fault}");
        }
        assert_eq!(ask("html").await.headers()["content-type"], "text/html", "{thing}");
        if !is_post {
            let cut = ask("cut").await;
            assert_eq!(cut.content_length(), Some(length), "{thing}");
            assert!(cut.bytes().await.is_err(), "{thing}");
            let broken = ask("bad_json").await.bytes().await.unwrap();
            assert_eq!(broken.len() as u64, length * 3 / 5, "{thing}");
            assert!(serde_json::from_slice::<Value>(&broken).is_err(), "{thing}");
        }
        let wrong = api.http.get(api.at("/v1/api/projects")).bearer_auth("wrong").send().await.unwrap();
        assert_eq!(wrong.status(), 401);
    }
}
