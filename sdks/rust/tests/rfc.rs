//! The examples of the RFC that plugins come from, as it has them but for what `CHANGED` says.

use prism_plugin::prelude::*; // CHANGED: three of these names were imported
use serde::Deserialize;

#[derive(Default)] // CHANGED: the macro makes one for each namespace
pub struct MyBackendPlugin {
    config: MyConfig,
    client: MyBackendClient,
}

#[async_trait]
impl BackendPlugin for MyBackendPlugin {
    async fn initialize(&mut self, req: InitializeRequest) -> Result<InitializeResponse> {
        self.config = serde_json::from_str(&req.config_json)?;
        self.client = MyBackendClient::connect(&self.config).await?;

        Ok(InitializeResponse {
            success: true,
            plugin_version: "0.1.0".to_string(),
            supported_operations: vec!["get", "set"],
            ..Default::default()
        })
    }

    async fn execute(&self, req: ExecuteRequest) -> Result<ExecuteResponse> {
        match req.operation.as_str() {
            "get" => self.handle_get(&req).await,
            "set" => self.handle_set(&req).await,
            _ => Err(format!("Unsupported: {}", req.operation).into()),
        }
    }
}

// What the RFC leaves to the author.

#[derive(Default, Deserialize)]
struct MyConfig {
    connection_string: String,
}

#[derive(Default)]
struct MyBackendClient {
    connected_to: String,
}

impl MyBackendClient {
    async fn connect(config: &MyConfig) -> std::io::Result<MyBackendClient> {
        let connected_to = config.connection_string.clone();
        Ok(MyBackendClient { connected_to })
    }
}

impl MyBackendPlugin {
    async fn handle_get(&self, req: &ExecuteRequest) -> Result<ExecuteResponse> {
        let params: serde_json::Value = serde_json::from_str(&req.params_json)?;
        let answer = serde_json::json!({"key": params["key"], "from": self.client.connected_to});
        ExecuteResponse::json(&answer)
    }

    async fn handle_set(&self, _req: &ExecuteRequest) -> Result<ExecuteResponse> {
        Ok(ExecuteResponse::raw("{}"))
    }
}

prism_plugin::export!(MyBackendPlugin);

/// "Plugin Testing" of the RFC.
#[tokio::test]
async fn test_plugin_lifecycle() {
    let mut plugin = MyBackendPlugin::default();

    // Initialize
    let init_req = InitializeRequest {
        namespace: "test".to_string(),
        config_json: r#"{"connection_string": "postgres://localhost"}"#.to_string(),
        ..Default::default()
    };
    let init_resp = plugin.initialize(init_req).await.unwrap();
    assert!(init_resp.success);

    // Execute
    let exec_req = ExecuteRequest {
        operation: "get".to_string(),
        params_json: r#"{"key": "test:123"}"#.to_string(),
        ..Default::default()
    };
    let exec_resp = plugin.execute(exec_req).await.unwrap();
    assert!(exec_resp.success);
    assert_eq!(
        exec_resp.result_json,
        r#"{"from":"postgres://localhost","key":"test:123"}"#
    );

    // Shutdown
    let shutdown_req = ShutdownRequest::default(); // CHANGED: it has fields now
    let shutdown_resp = plugin.shutdown(shutdown_req).await.unwrap();
    assert!(shutdown_resp.success);
}

#[test]
fn the_library_exports_its_table() {
    assert!(!prism_plugin_v1().is_null());
}
