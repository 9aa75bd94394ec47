//! GET /v1/health and GET /v1/openapi.json: says that we are here, and what we offer. Calls nothing.

use http::StatusCode;
use serde::Serialize;
use telbuddy::edge::{Access, Reply, Request, Route, answer};
use telbuddy::live::Need;
use utoipa::OpenApi;

/// The routes of this function.
pub const ROUTES: &[Route] = &[
    Route { method: "GET", path: "/v1/health", access: Access::Open },
    Route { method: "GET", path: "/v1/openapi.json", access: Access::Open },
];

/// The services that it calls: none.
pub const NEEDS: &[Need] = &[];

/// The API's description, made from the code; a test holds it against the code.
pub const OPENAPI: &str = include_str!("../openapi.json");

/// That we are here.
#[derive(Serialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
    /// The version that answers.
    version: &'static str,
}

/// Answers one request.
pub async fn handle(request: Request) -> Reply {
    answer(request.id, async {
        match request.route(ROUTES)?.0.path {
            "/v1/health" => Ok(health()),
            _ => Ok(openapi_document()),
        }
    })
    .await
}

/// Is it up?
#[utoipa::path(get, path = "/v1/health", tag = "meta", responses((status = 200, description = "Yes", body = Health)))]
fn health() -> Reply {
    Reply::json(StatusCode::OK, &Health { status: "ok", version: env!("CARGO_PKG_VERSION") })
}

/// This description.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "meta",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
fn openapi_document() -> Reply {
    Reply::text(StatusCode::OK, "application/json", OPENAPI.to_owned())
}

#[derive(OpenApi)]
#[openapi(paths(health, openapi_document))]
struct Api;

/// This function's part of the API's description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}
