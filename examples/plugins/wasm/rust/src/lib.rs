//! A plugin as a WebAssembly module: it greets, counts its calls, and counts for whoever listens.

mod json;
mod prism;

use json::{field, quoted};
use prism::{Answer, Failure, Level, Plugin, INVALID_ARGUMENT, UNIMPLEMENTED};

struct Greeter {
    greeting: String,
}

impl Plugin for Greeter {
    fn initialize(settings: &str) -> Result<(Self, String), Failure> {
        let config = field(settings, "config").unwrap_or_default();
        let greeting = field(&config, "greeting").unwrap_or_else(|| "Hello".into());
        prism::log(Level::Info, &format!("greets with {greeting:?}"));
        let offers = r#"{
            "version": "1.0.0",
            "operations": [
                {"name": "greet", "idempotent": true, "access": "read",
                 "description": "Greets somebody by name.",
                 "params_schema": {"type": "object", "properties": {"name": {"type": "string"}},
                                   "required": ["name"]}},
                {"name": "visits", "description": "Counts its calls, in all instances together."},
                {"name": "count", "streaming": true, "access": "read",
                 "description": "Sends the numbers from 0 up to `upto`."},
                {"name": "repeat", "streaming": true, "access": "read",
                 "description": "Sends back what the client sends."}
            ]
        }"#;
        Ok((Greeter { greeting }, offers.into()))
    }

    fn execute(&mut self, operation: &str, params: &str) -> Answer {
        match operation {
            "greet" => {
                let name = needed(params, "name")?;
                let text = format!("{}, {name}!", self.greeting);
                Ok(format!(r#"{{"text": {}}}"#, quoted(&text)))
            }
            "visits" => Ok(format!(r#"{{"visits": {}}}"#, prism::increment("visits", 1))),
            _ => Err(Failure::new(UNIMPLEMENTED, format!("there is no {operation}"))),
        }
    }

    fn stream(&mut self, operation: &str, params: &str) -> Answer {
        if operation == "repeat" {
            while let Some(message) = prism::receive() {
                if !prism::send(&message) {
                    break;
                }
            }
            return Ok("{}".into());
        }
        let upto = needed(params, "upto")?;
        let upto: u64 = upto.parse().map_err(|_| {
            Failure::new(INVALID_ARGUMENT, format!("upto is a whole number, not {upto:?}"))
        })?;
        for number in 0..upto {
            if !prism::send(&number.to_string()) {
                break;
            }
        }
        Ok("{}".into())
    }
}

fn needed(params: &str, name: &str) -> Result<String, Failure> {
    field(params, name)
        .ok_or_else(|| Failure::new(INVALID_ARGUMENT, format!("the parameter {name:?} is missing")))
}

export_plugin!(Greeter);
