//! The edge over HTTP, as far as it goes without a database.

use actix_web::{
    body::to_bytes,
    http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE},
    test::{TestRequest, init_service, try_call_service},
};
use chrono::Utc;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::{
    auth::{AuthSettings, KeySource},
    caller::{Authorized, ExportsRead},
    *,
};

const SECRET: &str = "a secret of at least thirty-two bytes";

fn test_edge() -> Edge {
    let settings =
        AuthSettings { key: KeySource::Secret(SECRET.into()), algorithms: vec![], issuer: None, audience: vec![] };
    Edge {
        public_url: None,
        auth: Arc::new(Authenticator::new(settings).unwrap()),
        stopping: CancellationToken::new(),
        published: &PUBLISHED,
    }
}

fn bearer(scope: &str) -> (actix_web::http::header::HeaderName, String) {
    let claims = json!({"sub": "crm", "exp": Utc::now().timestamp() + 60, "scope": scope});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).unwrap();
    (AUTHORIZATION, format!("Bearer {token}"))
}

async fn call(request: TestRequest) -> (u16, HeaderMap, Value) {
    let app = init_service(edge(test_edge(), |config| {
        routes(config);
        config.map(|config| {
            config
                .route("/panics", web::get().to(async || -> &'static str { panic!("on purpose") }))
                .route("/reads", web::get().to(async |caller: Authorized<ExportsRead>| caller.subject.clone()))
        });
    }))
    .await;
    let (status, headers, body) = match try_call_service(&app, request.to_request()).await {
        Ok(answer) => {
            let (status, headers) = (answer.status(), answer.headers().clone());
            (status, headers, to_bytes(answer.into_body()).await.unwrap())
        }
        Err(error) => {
            let answer = error.error_response();
            let (status, headers) = (answer.status(), answer.headers().clone());
            (status, headers, to_bytes(answer.into_body()).await.unwrap())
        }
    };
    (status.as_u16(), headers, serde_json::from_slice(&body).unwrap_or_default())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[actix_web::test]
async fn every_documented_operation_is_served_and_asks_for_a_token_if_it_says_so() {
    let document = openapi::document();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let uri = path.replace(['{', '}'], "");
            let request = TestRequest::with_uri(&uri).method(method.to_uppercase().parse().unwrap());
            let (status, headers, body) = call(request).await;
            if operation["security"] == json!([{}]) {
                assert!(status != 401 && status != 405, "{method} {path}: {status}");
            } else {
                assert_eq!((status, body["code"].as_str()), (401, Some("unauthenticated")), "{method} {path}");
                assert_eq!(text(&headers, "www-authenticate"), "Bearer realm=\"headgate\"");
            }
        }
    }
}

#[actix_web::test]
async fn unknown_paths_are_404_and_other_methods_405_with_what_is_allowed() {
    let (status, headers, body) = call(TestRequest::get().uri("/v1/nothing")).await;
    assert_eq!((status, &body["type"], &body["status"]), (404, &json!("/problems/not_found"), &json!(404)));
    assert_eq!(text(&headers, "content-type"), "application/problem+json");
    assert_eq!(body["instance"], text(&headers, "x-request-id"));

    for (request, allowed) in [
        (TestRequest::put().uri("/v1/exports"), "GET, HEAD, POST"),
        (TestRequest::patch().uri("/v1/exports/exp_1"), "DELETE, GET, HEAD"),
        (TestRequest::post().uri("/docs/index.html"), "GET, HEAD"),
        (TestRequest::get().uri("/callbacks/x"), "POST"),
    ] {
        let (status, headers, body) = call(request).await;
        assert_eq!((status, text(&headers, "allow")), (405, allowed));
        assert_eq!(body["code"], "method_not_allowed");
    }
}

#[actix_web::test]
async fn a_missing_scope_is_named() {
    let (status, headers, body) =
        call(TestRequest::post().uri("/v1/exports").insert_header(bearer("exports:read"))).await;
    assert_eq!((status, &body["category"]), (403, &json!("policy")));
    assert!(body["detail"].as_str().unwrap().contains("`exports:write`"));
    assert_eq!(
        text(&headers, "www-authenticate"),
        "Bearer realm=\"headgate\", error=\"insufficient_scope\", scope=\"exports:write\""
    );
}

#[actix_web::test]
async fn a_good_token_with_the_scope_is_let_in_and_a_bad_or_second_one_is_not() {
    let (status, ..) = call(TestRequest::get().uri("/reads").insert_header(bearer("exports:read"))).await;
    assert_eq!(status, 200);
    let (status, headers, body) =
        call(TestRequest::get().uri("/reads").insert_header((AUTHORIZATION, "Bearer x.y.z"))).await;
    assert_eq!((status, &body["detail"]), (401, &json!("the token cannot be read")));
    assert!(headers.get(WWW_AUTHENTICATE).unwrap().to_str().unwrap().contains("error=\"invalid_token\""));
    let twice =
        TestRequest::get().uri("/reads").append_header(bearer("exports:read")).append_header(bearer("exports:read"));
    assert_eq!(call(twice).await.0, 401);
}

#[actix_web::test]
async fn a_panic_is_an_ordinary_500() {
    let (status, headers, body) = call(TestRequest::get().uri("/panics").insert_header(("x-request-id", "abc"))).await;
    assert_eq!((status, &body["code"], &body["instance"]), (500, &json!("internal"), &json!("abc")));
    assert_eq!(text(&headers, "x-request-id"), "abc");
    assert!(!body.to_string().contains("on purpose"));
}

#[actix_web::test]
async fn over_a_real_connection_head_has_no_body_and_large_bodies_and_panics_get_their_answer() {
    let server = actix_web::HttpServer::new(|| {
        edge(test_edge(), |config| {
            routes(config);
            config.map(|config| {
                config.route("/panics", web::get().to(async || -> &'static str { panic!("on purpose") })).route(
                    "/takes",
                    web::post().to(async |request: HttpRequest, payload: web::Payload| -> Answer {
                        body::read_json(&request, payload).await?;
                        Ok(actix_web::HttpResponse::Ok().finish())
                    }),
                )
            });
        })
    })
    .workers(1)
    .disable_signals()
    .bind("127.0.0.1:0")
    .unwrap();
    let base = format!("http://{}", server.addrs()[0]);
    actix_web::rt::spawn(server.run());
    let client = reqwest::Client::new();

    let got = client.get(format!("{base}/openapi.json")).send().await.unwrap().text().await.unwrap();
    let head = client.head(format!("{base}/openapi.json")).send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()),
        (200, &*got.len().to_string())
    );
    assert_eq!(head.text().await.unwrap(), "");

    let large = || client.post(format!("{base}/takes")).header("content-type", "application/json");
    let stream = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
    let stream = futures_util::StreamExt::take(stream, 32);
    for request in [large().body(vec![b' '; 2 << 20]), large().body(reqwest::Body::wrap_stream(stream))] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 413);
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "payload_too_large");
    }

    let answer = client.get(format!("{base}/panics")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["content-type"]),
        (500, &"application/problem+json".parse().unwrap())
    );
    assert_eq!(client.get(format!("{base}/healthz")).send().await.unwrap().status(), 200);
}

#[actix_web::test]
async fn every_answer_has_a_request_id() {
    let (status, headers, _) = call(TestRequest::get().uri("/healthz").insert_header(("x-request-id", "mine-1"))).await;
    assert_eq!((status, text(&headers, "x-request-id")), (200, "mine-1"));
    let (_, headers, _) = call(TestRequest::get().uri("/healthz").insert_header(("x-request-id", "not mine"))).await;
    assert!(text(&headers, "x-request-id").starts_with("req_"));
}

#[actix_web::test]
async fn head_works_where_get_does() {
    for uri in ["/healthz", "/openapi.json", "/problems/internal", "/docs/"] {
        let (status, ..) = call(TestRequest::with_uri(uri).method(actix_web::http::Method::HEAD)).await;
        assert_eq!(status, 200, "{uri}");
    }
}

#[actix_web::test]
async fn a_problem_page_comes_in_the_form_that_is_asked_for() {
    for (accept, media_type) in [
        ("*/*", "text/html; charset=utf-8"),
        ("text/html,application/xml;q=0.9", "text/html; charset=utf-8"),
        ("application/json", "application/json"),
        ("text/markdown", "text/markdown; charset=utf-8"),
    ] {
        let request = TestRequest::get().uri("/problems/export_not_finished").insert_header(("accept", accept));
        let (status, headers, _) = call(request).await;
        assert_eq!((status, text(&headers, "content-type")), (200, media_type));
    }
    assert_eq!(call(TestRequest::get().uri("/problems/nonsense")).await.0, 404);
}

#[actix_web::test]
async fn the_documents_and_their_browser_are_served_from_here() {
    for (uri, version) in [("/openapi.json", "3.1.0"), ("/openapi-3.0.json", "3.0.3")] {
        assert_eq!(call(TestRequest::get().uri(uri)).await.2["openapi"], version);
    }
    let (status, headers, _) = call(TestRequest::get().uri("/docs")).await;
    assert_eq!((status, text(&headers, "location")), (308, "/docs/"));
    let (status, _, body) = call(TestRequest::get().uri("/docs/nothing.js")).await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));
}
