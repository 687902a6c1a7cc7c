//! my-plugin is a plugin of the Prism data-access proxy.

use prism_plugin::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Default)]
struct MyPlugin;

#[derive(Deserialize)]
struct Person {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    text: String,
}

#[async_trait]
impl BackendPlugin for MyPlugin {
    async fn initialize(&mut self, _: InitializeRequest) -> Result<InitializeResponse> {
        let greet = Operation::new("greet")
            .idempotent()
            .access(Access::Read)
            .describe("Greet somebody.")
            .schemas(
                &json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}),
                &json!({"type": "object", "properties": {"text": {"type": "string"}}}),
            );
        Ok(InitializeResponse {
            operations: vec![greet],
            ..Default::default()
        })
    }

    async fn execute(&self, req: ExecuteRequest) -> Result<ExecuteResponse> {
        match req.operation.as_str() {
            "greet" => ExecuteResponse::json(&greet(req.params()?)),
            other => Err(format!("unsupported: {other}").into()),
        }
    }
}

fn greet(person: Person) -> Greeting {
    Greeting {
        text: format!("Hello, {}!", person.name),
    }
}

fn main() -> std::process::ExitCode {
    prism_plugin::serve("my-plugin", env!("CARGO_PKG_VERSION"), MyPlugin::default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[prism_plugin::tokio::test(crate = "prism_plugin::tokio")]
    async fn it_greets() {
        let request = |params: &str| ExecuteRequest {
            operation: "greet".into(),
            params_json: params.into(),
            ..Default::default()
        };
        let answer = MyPlugin
            .execute(request(r#"{"name": "Ada"}"#))
            .await
            .unwrap();
        assert_eq!(answer.result_json, r#"{"text":"Hello, Ada!"}"#);
        assert!(MyPlugin.execute(request("{}")).await.is_err());
    }
}
