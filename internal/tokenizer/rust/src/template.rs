//! Chat templates: Jinja as Hugging Face's `apply_chat_template` renders it.

use crate::abi::{borrow, borrow_str, guard, Bytes};
use crate::{bounds, calls, checks, filters, globals, operators, pymethods, pytext, rewrite};
use minijinja::{Environment, ErrorKind, Value};
use std::sync::atomic::AtomicI32;

/// How many instructions a template may run: a second, about. It is a program of whoever made the checkpoint, and can loop; the
/// longest chats take some thousands an exchange.
const FUEL: u64 = 10_000_000;

/// A compiled chat template.
pub struct Template {
    env: Environment<'static>,
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
        let mut env = Environment::empty(); // nothing that Jinja does not have
        env.set_fuel(Some(FUEL));
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_unknown_method_callback(pymethods::call);
        env.set_formatter(|out, _, value| {
            let text = pytext::str(value);
            bounds::make(text.len())?;
            out.write_str(&text).map_err(Into::into)
        });
        filters::add(&mut env);
        checks::add(&mut env);
        globals::add(&mut env);
        operators::add(&mut env);
        calls::add(&mut env);
        env.add_template_owned("chat", rewrite::rewrite(source)?).map_err(explain)?;
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
/// `t` must be live; `context` must point to `len` bytes; `stop` to a number that is not 0 when the call is to end early; `out` and
/// `err` must be valid for writes.
#[no_mangle]
pub unsafe extern "C" fn gomlx_template_render(
    t: *const Template,
    context: *const u8,
    len: usize,
    stop: *const AtomicI32,
    out: *mut Bytes,
    err: *mut Bytes,
) -> i32 {
    guard(out, err, || {
        let mut context: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(borrow(context, len)).map_err(|e| e.to_string())?;
        complete(&mut context);
        let template = (*t).env.get_template("chat").map_err(|e| e.to_string())?;
        let context = Value::from_serialize(&context);
        let _bounds = bounds::begin(stop); // what it was given does not count
        let mut prompt = bounds::Prompt::default();
        let rendered = template.render_captured_to(context, &mut prompt).map(drop);
        rendered.and_then(|()| bounds::check()).map_err(|e| explain(if e.kind() == ErrorKind::WriteFailure { bounds::check().err().unwrap_or(e) } else { e }))?;
        Ok(Bytes::from_vec(prompt.0))
    })
}

/// An error with its line, and without the source, which is not that of the model; see rewrite.rs.
fn explain(e: minijinja::Error) -> String {
    match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("it ran {FUEL} instructions and was not done: it loops"),
        (kind, detail) => {
            let message = detail.map_or_else(|| kind.to_string(), str::to_owned);
            e.line().map_or_else(|| message.clone(), |line| format!("{message} (template line {line})"))
        }
    }
}

/// Makes of a context what transformers' `apply_chat_template` makes of its arguments.
fn complete(context: &mut serde_json::Map<String, serde_json::Value>) {
    use serde_json::Value::{Array, Null, Object};
    for name in ["tools", "documents"] {
        context.entry(name).or_insert(Null); // given always, and None where there are none
    }
    let Some(Array(messages)) = context.get_mut("messages") else { return };
    for message in messages {
        let Object(message) = message else { continue };
        message.retain(|_, value| !value.is_null());
        // Thoughts have had three names; templates read one or the other.
        let Some(reasoning) = ["reasoning_content", "thinking", "reasoning"].iter().find_map(|name| message.get(*name)).cloned() else { continue };
        let thinking = message.shift_remove("thinking").unwrap_or_else(|| reasoning.clone());
        message.shift_insert(0, "thinking".into(), thinking);
        message.insert("reasoning_content".into(), reasoning);
    }
}
