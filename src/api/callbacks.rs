//! Where a vendor reports a finished export. Open by design: the token is unguessable and only a hint to look.

use actix_web::{HttpRequest, HttpResponse, post, web};

use super::{
    body,
    problem::{Answer, ApiError},
    responses::{Absent, TooLarge},
};
use crate::operations::{Gateway, callbacks as operation};

/// What a vendor may send, in bytes; none of it is believed.
const MAX_BODY: usize = 64 * 1024;
/// Longer than any token we made.
const MAX_TOKEN: usize = 256;

/// Report a finished export
///
/// For vendors. Whatever is sent is ignored: Headgate then asks the vendor itself.
#[utoipa::path(
    tag = "service",
    security(()),
    params(("token" = String, Path, description = "The token of the callback address.")),
    request_body(content = String, content_type = "*/*", description = "Anything, up to 64 KiB; it is ignored."),
    responses((status = 204, description = "Noted."), Absent, TooLarge),
)]
#[post("/callbacks/{token}")]
pub async fn vendor_callback(
    gateway: web::Data<Gateway>,
    request: HttpRequest,
    payload: web::Payload,
    token: web::Path<String>,
) -> Answer {
    if token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::not_found("callback"));
    }
    body::read(&request, payload, MAX_BODY).await?;
    operation::vendor_called_back(&gateway, &token).await?;
    Ok(HttpResponse::NoContent().finish())
}
