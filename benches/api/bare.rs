//! The least that actix-web and sqlx can do: one INSERT, one SELECT, no token, no check, no idempotency. What
//! `run.py` measures Headgate's API beside.

use actix_web::{App, HttpResponse, HttpServer, Responder, web};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::{PgPool, postgres::PgPoolOptions, types::Json};

#[derive(Deserialize)]
struct NewJob {
    connection: String,
    dataset: String,
    parameters: Box<RawValue>,
}

#[derive(Serialize)]
struct Job<'a> {
    id: i64,
    connection: &'a str,
    dataset: &'a str,
    state: &'a str,
    parameters: &'a RawValue,
}

async fn post(db: web::Data<PgPool>, job: web::Json<NewJob>) -> impl Responder {
    let insert =
        sqlx::query_as("insert into bare_job (connection, dataset, parameters) values ($1, $2, $3) returning id");
    let insert = insert.bind(&job.connection).bind(&job.dataset).bind(Json(&job.parameters));
    match insert.fetch_one(db.get_ref()).await {
        Ok((id,)) => {
            let id: i64 = id;
            HttpResponse::Accepted()
                .insert_header(("location", format!("/jobs/{id}")))
                .json(serde_json::json!({"id": id, "state": "queued"}))
        }
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

async fn get(db: web::Data<PgPool>, id: web::Path<i64>) -> impl Responder {
    type Found = (i64, String, String, String, Json<Box<RawValue>>);
    let select = sqlx::query_as("select id, connection, dataset, state, parameters from bare_job where id = $1");
    let found: sqlx::Result<Option<Found>> = select.bind(*id).fetch_optional(db.get_ref()).await;
    match found {
        Ok(Some((id, connection, dataset, state, parameters))) => HttpResponse::Ok().json(Job {
            id,
            connection: &connection,
            dataset: &dataset,
            state: &state,
            parameters: &parameters.0,
        }),
        Ok(None) => HttpResponse::NotFound().finish(),
        Err(error) => HttpResponse::InternalServerError().body(error.to_string()),
    }
}

/// `bare DATABASE_URL PORT`
#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    let (Some(url), Some(port)) = (words.next(), words.next().and_then(|port| port.parse::<u16>().ok())) else {
        // `cargo bench` runs it without knowing better.
        return Ok(());
    };
    let db = PgPoolOptions::new().max_connections(16).connect(&url).await.map_err(std::io::Error::other)?;
    HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(db.clone()))
            .route("/jobs", web::post().to(post))
            .route("/jobs/{id}", web::get().to(get))
    })
    .bind(("127.0.0.1", port))?
    .run()
    .await
}
