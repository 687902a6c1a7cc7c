//! The example that every kit has, as a process.

mod operations;

fn main() -> std::process::ExitCode {
    prism_plugin::serve("kit", "1.0.0", operations::Kit::default)
}
