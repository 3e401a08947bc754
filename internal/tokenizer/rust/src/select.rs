//! Jinja's filters that apply another filter or a test to each item.

use crate::lists::{attribute_or, list};
use crate::sequences::generator;
use crate::{bounds, pytext};
use minijinja::value::{Kwargs, Rest};
use minijinja::{Environment, Error, ErrorKind, State, Value};

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    bounds::filter(env, "map", map);
    for (name, wanted, of_attribute) in [("select", true, false), ("reject", false, false), ("selectattr", true, true), ("rejectattr", false, true)] {
        bounds::filter(env, name, move |state: &State, v: Value, args: Rest<Value>| select(state, v, &args.0, wanted, of_attribute));
    }
}

/// What is false has no items, also if it could not be gone through.
fn items(v: &Value) -> Result<Vec<Value>, Error> {
    if v.is_true() {
        list(v)
    } else {
        Ok(Vec::new())
    }
}

fn map(state: &State, v: Value, args: Rest<Value>) -> Result<Value, Error> {
    let (placed, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(&args.0)?;
    let items = items(&v)?;
    if placed.is_empty() && kwargs.has("attribute") {
        let path: Value = kwargs.get("attribute")?;
        let default = if kwargs.has("default") { Some(kwargs.get::<Value>("default")?).filter(|v| !v.is_none()) } else { None };
        kwargs.assert_all_used()?;
        let found = items.iter().map(|item| attribute_or(item, &path, default.as_ref())).collect::<Result<Vec<_>, _>>()?;
        return Ok(generator(found));
    }
    let Some((name, _)) = args.0.split_first().filter(|_| !placed.is_empty()) else { return Err(bad("map requires a filter argument")) };
    let name = name.as_str().ok_or_else(|| bad(format!("map: the name of a filter is needed, not {}", pytext::type_name(name))))?;
    let found = items.into_iter().map(|item| state.apply_filter(name, &with(item, &args.0[1..]))).collect::<Result<Vec<_>, _>>()?;
    Ok(generator(found))
}

fn select(state: &State, v: Value, args: &[Value], wanted: bool, of_attribute: bool) -> Result<Value, Error> {
    let path = if of_attribute { Some(args.first().filter(|v| !v.is_kwargs()).ok_or_else(|| bad("Missing parameter for attribute name"))?) } else { None };
    let rest = &args[usize::from(of_attribute)..];
    let test = match rest.split_first().filter(|(name, _)| !name.is_kwargs()) {
        Some((name, more)) => Some((name.as_str().ok_or_else(|| bad("the name of a test is needed"))?, more)),
        None => None,
    };
    let mut found = Vec::new();
    for item in items(&v)? {
        let looked_at = match path {
            Some(path) => attribute_or(&item, path, None)?,
            None => item.clone(),
        };
        let passes = match test {
            Some((name, more)) => state.perform_test(name, &with(looked_at, more))?,
            None => looked_at.is_true(),
        };
        if passes == wanted {
            found.push(item);
        }
    }
    Ok(generator(found))
}

fn with(item: Value, more: &[Value]) -> Vec<Value> {
    let mut args = Vec::with_capacity(1 + more.len());
    args.push(item);
    args.extend_from_slice(more);
    args
}
