//! C ABI over the `tokenizers`, `minijinja` and `llguidance` crates.
//!
//! Every function returns 0 on success and 1 on failure; on failure `*err` holds a message
//! that the caller frees with `gomlx_bytes_free`. A panic never crosses the boundary: it
//! becomes a failure with the panic's text.

// Without the feature "library" there is only what needs no large crate, for its tests: see Cargo.toml.
#![cfg_attr(not(feature = "library"), allow(dead_code))]

mod bytelevel;
mod expression;
mod lexer;
mod names;
mod postfix;
mod pyjson;
mod rewrite;
mod statement;
mod written;

#[cfg(feature = "library")]
mod abi;
#[cfg(feature = "library")]
mod bounds;
#[cfg(feature = "library")]
mod bpe;
#[cfg(feature = "library")]
mod bpejson;
#[cfg(feature = "library")]
mod calls;
#[cfg(feature = "library")]
mod checks;
#[cfg(feature = "library")]
mod filters;
#[cfg(feature = "library")]
mod given;
#[cfg(feature = "library")]
mod globals;
#[cfg(feature = "library")]
mod grammar;
#[cfg(feature = "library")]
mod lists;
#[cfg(feature = "library")]
mod load;
#[cfg(feature = "library")]
mod memory;
#[cfg(feature = "library")]
mod operators;
#[cfg(feature = "library")]
mod pyformat;
#[cfg(feature = "library")]
mod pymethods;
#[cfg(feature = "library")]
mod pypercent;
#[cfg(feature = "library")]
mod pytext;
#[cfg(feature = "library")]
mod select;
#[cfg(feature = "library")]
mod sequences;
#[cfg(feature = "library")]
mod signatures;
#[cfg(feature = "library")]
mod template;
#[cfg(feature = "library")]
mod tokens;
#[cfg(feature = "library")]
mod values;
#[cfg(feature = "library")]
mod vocab;
