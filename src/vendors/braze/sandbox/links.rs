//! The file link: plays the object store, which knows nothing of the API's keys.

use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, StatusCode, header},
    web,
};
use uuid::Uuid;

use super::{NAME, exports::Workspace, gate::HTML};
use crate::vendors::sandbox::{World, files::Transfer};

pub(super) async fn file(world: web::Data<World>, request: HttpRequest, name: web::Path<String>) -> HttpResponse {
    if request.method() == Method::HEAD {
        return HttpResponse::Forbidden().content_type("application/xml").finish();
    }
    if request.method() != Method::GET {
        return xml(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "The specified method is not allowed");
    }
    world.note(NAME, |activity| activity.polls += 1);
    if request.headers().contains_key(header::AUTHORIZATION) {
        world.violation(NAME, "the key was sent to the file host");
        return xml(StatusCode::BAD_REQUEST, "InvalidArgument", "Only one auth mechanism allowed");
    }
    let denied = || xml(StatusCode::FORBIDDEN, "AccessDenied", "Access Denied");
    let token = name.strip_suffix(".zip").unwrap_or_default();
    let workspace = world.shelf::<Workspace>();
    let (file, fetched) = {
        let inner = workspace.lock();
        let Some(export) = inner.exports.get(token).filter(|export| !export.cancelled) else { return denied() };
        if !request.query_string().ends_with(&format!("X-Amz-Signature={}", export.signature)) {
            return xml(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", "The request signature does not match");
        }
        match &export.ready {
            Some((since, Some(file))) if since.elapsed() < world.config.link_life => (file.clone(), export.fetched),
            _ => return denied(),
        }
    };
    if world.fault("braze.segment.not_ready") || (fetched && world.fault("braze.file.expired")) {
        return denied();
    }
    if let Some(elsewhere) = world.fault_url("braze.file.redirect") {
        return HttpResponse::Found().insert_header((header::LOCATION, elsewhere)).finish();
    }
    if world.fault("braze.file.not_found") {
        return xml(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
    }
    if world.fault("braze.file.server_error") {
        return xml(StatusCode::SERVICE_UNAVAILABLE, "SlowDown", "Please reduce your request rate.");
    }
    if world.fault("braze.file.html") {
        return HttpResponse::Ok().content_type("text/html").body(HTML);
    }
    let transfer = [
        ("braze.file.cut", Transfer::Cut),
        ("braze.file.truncated", Transfer::Truncated),
        ("braze.file.drip", Transfer::Drip),
    ]
    .into_iter()
    .find(|(name, _)| world.fault(name))
    .map_or(Transfer::Whole, |(_, transfer)| transfer);
    if let Some(export) = workspace.lock().exports.get_mut(token) {
        export.fetched = true;
    }
    world.note(NAME, |activity| activity.downloads += 1);
    file.serve(&request, "application/zip", transfer)
}

fn xml(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).content_type("application/xml").body(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{}</RequestId></Error>",
        Uuid::new_v4().simple()
    ))
}
