//! Chat templates: Jinja as Hugging Face's `apply_chat_template` renders it.

use crate::abi::{borrow, borrow_str, guard, Bytes};
use crate::pyjson;
use minijinja::{value::Kwargs, Environment, Error, ErrorKind, Value};

/// How many instructions a template may run: a second, about. It is a program of whoever made the checkpoint, and can loop; the
/// longest chats take some thousands an exchange.
const FUEL: u64 = 10_000_000;

/// The widest indentation of `tojson`; a wider one would only fill the memory.
const MAX_INDENT: usize = 100;

/// A compiled chat template.
pub struct Template {
    env: Environment<'static>,
}

fn raise_exception(message: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(format: String) -> Result<String, Error> {
    use std::fmt::Write;
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(&format))
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("bad date format {format:?}")))?;
    Ok(out)
}

/// `tojson` as Python's json.dumps prints it: Hugging Face replaces Jinja's own HTML-safe one.
fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent = kwargs.get::<Option<usize>>("indent")?;
    if indent.is_some_and(|n| n > MAX_INDENT) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: indent is more than {MAX_INDENT}")));
    }
    let ensure_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sort_keys = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let json = serde_json::to_value(&value)
        .map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from_safe_string(pyjson::dumps(&json, indent, ensure_ascii, sort_keys)))
}

/// # Safety
/// `source` must point to `len` bytes; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_template_new(
    source: *const u8,
    len: usize,
    out: *mut *mut Template,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let source = borrow_str(source, len)?;
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", raise_exception);
        env.add_function("strftime_now", strftime_now);
        env.add_filter("tojson", tojson);
        env.add_template_owned("chat", source.to_owned()).map_err(|e| format!("{e:#}"))?;
        Ok(Box::into_raw(Box::new(Template { env })))
    })
}

/// # Safety
/// `t` must come from `gomlx_template_new` and not have been freed.
#[no_mangle]
pub unsafe extern "C" fn gomlx_template_free(t: *mut Template) {
    if !t.is_null() {
        drop(Box::from_raw(t));
    }
}

/// Renders with a context given as a JSON object, whose key order is kept.
///
/// # Safety
/// `t` must be live; `context` must point to `len` bytes; `out` and `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_template_render(
    t: *const Template,
    context: *const u8,
    len: usize,
    out: *mut Bytes,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let context: serde_json::Value =
            serde_json::from_slice(borrow(context, len)).map_err(|e| e.to_string())?;
        let template = (*t).env.get_template("chat").map_err(|e| e.to_string())?;
        let text = template.render(Value::from_serialize(&context)).map_err(|e| match (e.kind(), e.detail()) {
            (ErrorKind::OutOfFuel, _) => format!("it ran {FUEL} instructions and was not done: it loops"),
            (_, Some(detail)) => format!("{detail} (template line {})", e.line().unwrap_or(0)),
            _ => e.to_string(),
        })?;
        Ok(Bytes::from_vec(text.into_bytes()))
    })
}
