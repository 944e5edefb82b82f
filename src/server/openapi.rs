use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, on};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

use super::Shared;
use crate::wire::ErrorBody;

/// Routes, and the OpenAPI document of them: a route is added to both at once.
pub(super) struct Routes {
    router: Router<Shared>,
    paths: Map<String, Value>,
    schemas: SchemaGenerator,
}

type Form = fn(&mut SchemaGenerator) -> Schema;

/// What a route takes and gives.
pub(super) struct Shape {
    takes: Option<Form>,
    gives: Option<Form>,
    status: u16,
    query: &'static [&'static str],
}

/// A route that takes this body.
pub(super) fn takes<T: JsonSchema>() -> Shape {
    Shape { takes: Some(form::<T>), ..nothing() }
}

/// A route that takes no body, and answers without one.
pub(super) fn nothing() -> Shape {
    Shape { takes: None, gives: None, status: 204, query: &[] }
}

fn form<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

impl Shape {
    /// Answers with this.
    pub(super) fn gives<T: JsonSchema>(self) -> Self {
        Self { gives: Some(form::<T>), status: 200, ..self }
    }

    /// Answers with what was made.
    pub(super) fn makes<T: JsonSchema>(self) -> Self {
        Self { status: 201, ..self.gives::<T>() }
    }

    /// Reads these parameters.
    pub(super) fn query(self, query: &'static [&'static str]) -> Self {
        Self { query, ..self }
    }
}

impl Routes {
    pub(super) fn new() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        });
        Self { router: Router::new(), paths: Map::new(), schemas: settings.into_generator() }
    }

    pub(super) fn get<H, T>(self, path: &str, about: &str, shape: Shape, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        self.add(("get", MethodFilter::GET), path, about, shape, handler)
    }

    pub(super) fn post<H, T>(self, path: &str, about: &str, shape: Shape, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        self.add(("post", MethodFilter::POST), path, about, shape, handler)
    }

    pub(super) fn put<H, T>(self, path: &str, about: &str, shape: Shape, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        self.add(("put", MethodFilter::PUT), path, about, shape, handler)
    }

    pub(super) fn delete<H, T>(self, path: &str, about: &str, handler: H) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        self.add(("delete", MethodFilter::DELETE), path, about, nothing(), handler)
    }

    fn add<H, T>(
        mut self,
        (method, filter): (&str, MethodFilter),
        path: &str,
        about: &str,
        shape: Shape,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Shared>,
        T: 'static,
    {
        let operation = self.operation(method, path, about, &shape);
        let operations = self.paths.entry(path).or_insert_with(|| json!({}));
        operations[method] = operation;
        Self { router: self.router.route(path, on(filter, handler)), ..self }
    }

    fn operation(&mut self, method: &str, path: &str, about: &str, shape: &Shape) -> Value {
        let mut content =
            |form: Form| json!({ "application/json": { "schema": form(&mut self.schemas) } });
        let mut answer = json!({ "description": "Done." });
        if let Some(gives) = shape.gives {
            answer["content"] = content(gives);
        }
        let error = json!({ "description": "Not done.", "content": content(form::<ErrorBody>) });
        let in_path = path.contains("{id}").then(|| {
            let schema = json!({ "type": "string", "minLength": 1 });
            json!({ "name": "id", "in": "path", "required": true, "schema": schema })
        });
        let in_query = shape.query.iter().map(|name| {
            let schema = match *name {
                "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 100 }),
                _ => json!({ "type": "string" }),
            };
            json!({ "name": name, "in": "query", "schema": schema })
        });
        let name = path.trim_start_matches("/v1/").replace(['/', '{', '}'], "_");
        let mut operation = json!({
            "operationId": format!("{method}_{name}"),
            "summary": about,
            "parameters": in_path.into_iter().chain(in_query).collect::<Vec<_>>(),
            "responses": { shape.status.to_string(): answer, "default": error },
        });
        if let Some(takes) = shape.takes {
            operation["requestBody"] = json!({ "content": content(takes) });
        }
        operation
    }

    /// The router, and the document as JSON.
    pub(super) fn finish(mut self) -> (Router<Shared>, String) {
        let document = json!({
            "openapi": "3.1.0",
            "info": { "title": "Limitry", "version": env!("CARGO_PKG_VERSION") },
            "security": [{ "key": [] }],
            "paths": self.paths,
            "components": {
                "schemas": self.schemas.take_definitions(true),
                "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } },
            },
        });
        (self.router, document.to_string())
    }
}
