//! C ABI over the `tokenizers`, `minijinja` and `llguidance` crates.
//!
//! Every function returns 0 on success and 1 on failure; on failure `*err` holds a message
//! that the caller frees with `gomlx_bytes_free`. A panic never crosses the boundary: it
//! becomes a failure with the panic's text.

mod abi;
mod filters;
mod grammar;
mod load;
mod pyjson;
mod pymethods;
mod pytext;
mod rewrite;
mod template;
mod tokens;
