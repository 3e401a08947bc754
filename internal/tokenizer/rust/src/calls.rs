//! Macros as Jinja calls them: with arguments beyond the named ones, with defaults that see the parameters before them, and with a
//! difference between an argument that is not defined and one that is not there.
//!
//! statement.rs writes hidden parameters behind those of a macro: `__given`, a list with true for each parameter that got a value, and
//! `caller`, `varargs` and `kwargs` where the macro speaks of them. A call of any value is written as one of what `__call` makes of it,
//! which fills them.

use crate::values;
use minijinja::value::{Kwargs, Object, ObjectRepr};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::sync::Arc;

const GIVEN: &str = "__given";

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

pub fn add(env: &mut Environment<'static>) {
    env.add_function("__call", |of: Value, name: &str| match signature(&of) {
        Some(signature) => Ok(Value::from_object(Call(of, signature))),
        None if of.is_undefined() && name == "caller" => Err(bad("No caller defined")),
        None if of.is_undefined() => Err(bad(format!("{name} is undefined"))),
        None => Ok(of),
    });
}

/// The parameters of a macro, and those that were added.
#[derive(Debug)]
struct Signature {
    names: Vec<String>,
    added: Vec<String>,
}

/// None for what is no macro.
fn signature(v: &Value) -> Option<Signature> {
    if !values::is_macro(v) {
        return None;
    }
    let mut names: Vec<String> = v.get_attr("arguments").ok()?.try_iter().ok()?.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let added = names.split_off(names.iter().position(|name| name == GIVEN)?);
    Some(Signature { names, added })
}

/// What Jinja tells about a macro under a name.
pub fn attribute(of: &Value, name: &str) -> Option<Value> {
    let Signature { names, added } = signature(of)?;
    let has = |list: &[String], wanted: &str| Value::from(list.iter().any(|n| n == wanted));
    match name {
        "arguments" => Some(values::tuple(names.iter().map(Value::from).collect())),
        "catch_varargs" => Some(has(&added, "varargs")),
        "catch_kwargs" => Some(has(&added, "kwargs")),
        "explicit_caller" => Some(has(&names, "caller")),
        "caller" => Some(has(&added, "caller")),
        _ => None,
    }
}

/// A macro that is about to be called.
#[derive(Debug)]
struct Call(Value, Signature);

impl Object for Call {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let Signature { names, added } = &self.1;
        let name = self.0.get_attr("name")?;
        let (placed, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(args)?;
        let mut left: Vec<(&str, Value)> = kwargs.args().map(|name| Ok((name, kwargs.peek::<Value>(name)?))).collect::<Result<_, Error>>()?;
        let mut take = |wanted: &str| left.iter().position(|(name, _)| *name == wanted).map(|at| left.remove(at).1);

        let mut values: Vec<Value> = placed.iter().take(names.len()).cloned().collect();
        let mut given = vec![true; values.len()];
        for name in &names[values.len()..] {
            let value = take(name);
            given.push(value.is_some());
            values.push(value.unwrap_or_default());
        }
        let has = |name: &str| added.iter().any(|n| n == name);
        let caller = if has("caller") { take("caller").filter(|v| !v.is_none()) } else { None };
        let mut more: Vec<Value> = placed.iter().skip(names.len()).cloned().collect();
        for name in added {
            values.push(match name.as_str() {
                GIVEN => given.iter().copied().map(Value::from).collect(),
                "caller" => caller.clone().unwrap_or_default(),
                "varargs" => values::tuple(std::mem::take(&mut more)),
                _ => std::mem::take(&mut left).into_iter().map(|(name, value)| (Value::from(name), value)).collect(),
            });
        }
        if !more.is_empty() {
            return Err(bad(format!("macro '{name}' takes not more than {} argument(s)", names.len())));
        }
        if let Some((wrong, _)) = left.first() {
            return Err(bad(format!("macro '{name}' takes no keyword argument '{wrong}'")));
        }
        self.0.call(state, &values)
    }
}
