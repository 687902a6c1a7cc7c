//! The same, as a shared library: `type: in_process`, `library: libkit_library.so`.

mod operations;

prism_plugin::export!(operations::Kit, "kit", "1.0.0");
