//! The parameters of Jinja's filters and tests, under its own names. A call is bound to them, so that what is behind a name here gets all
//! of its arguments in order, and what Jinja refuses is refused.

use crate::pytext;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

#[derive(Clone, Copy)]
enum Take {
    Any,
    Truth,
    Flag, // a boolean or a number
    Whole,
    Text,
}

#[derive(Clone, Copy)]
enum Otherwise {
    Needed,
    None,
    Undefined, // which tells that nothing was given
    False,
    True,
    Whole(i64),
    Text(&'static str),
}

use Otherwise::{False, Needed, True, Undefined};
use Take::{Any, Flag, Text, Truth, Whole};

type Parameter = (&'static str, Take, Otherwise);

const CASE: Parameter = ("case_sensitive", Truth, False);
const ATTRIBUTE: Parameter = ("attribute", Any, Otherwise::None);
/// A parameter that has no name for the caller.
const OTHER: &str = "";

/// The parameters after the value; None for those that take what they like.
fn of_filter(name: &str) -> Option<&'static [Parameter]> {
    Some(match name {
        "map" | "select" | "reject" | "selectattr" | "rejectattr" | "format" => return None,
        "attr" => &[("name", Text, Needed)],
        "batch" => &[("linecount", Any, Needed), ("fill_with", Any, Otherwise::None)],
        "slice" => &[("slices", Whole, Needed), ("fill_with", Any, Otherwise::None)],
        "center" => &[("width", Whole, Otherwise::Whole(80))],
        "d" | "default" => &[("default_value", Any, Otherwise::Text("")), ("boolean", Truth, False)],
        "dictsort" => &[CASE, ("by", Text, Otherwise::Text("key")), ("reverse", Flag, False)],
        "float" => &[("default", Any, Otherwise::Undefined)],
        "groupby" => &[("attribute", Any, Needed), ("default", Any, Otherwise::None), CASE],
        "indent" => &[("width", Any, Otherwise::Whole(4)), ("first", Truth, False), ("blank", Truth, False)],
        "int" => &[("default", Any, Otherwise::Whole(0)), ("base", Any, Otherwise::Whole(10))],
        "join" => &[("d", Any, Otherwise::Text("")), ATTRIBUTE],
        "max" | "min" | "unique" => &[CASE, ATTRIBUTE],
        "replace" => &[("old", Any, Needed), ("new", Any, Needed), ("count", Whole, Otherwise::None)],
        "round" => &[("precision", Whole, Otherwise::Whole(0)), ("method", Text, Otherwise::Text("common"))],
        "sort" => &[("reverse", Flag, False), CASE, ATTRIBUTE],
        "sum" => &[ATTRIBUTE, ("start", Any, Otherwise::Whole(0))],
        "tojson" => &[("ensure_ascii", Truth, False), ("indent", Any, Otherwise::None), ("separators", Any, Otherwise::None), ("sort_keys", Truth, False)],
        "trim" => &[("chars", Text, Otherwise::None)],
        "truncate" => &[("length", Whole, Otherwise::Whole(255)), ("killwords", Truth, False), ("end", Text, Otherwise::Text("...")), ("leeway", Whole, Otherwise::None)],
        "xmlattr" => &[("autospace", Truth, True)],
        _ => &[],
    })
}

fn of_test(name: &str) -> &'static [Parameter] {
    match name {
        "divisibleby" => &[("num", Any, Needed)],
        "in" => &[("seq", Any, Needed)],
        "sameas" => &[("other", Any, Needed)],
        "==" | "!=" | "<" | "<=" | ">" | ">=" | "eq" | "equalto" | "ne" | "lt" | "lessthan" | "le" | "gt" | "greaterthan" | "ge" => &[(OTHER, Any, Needed)],
        _ => &[],
    }
}

/// A filter's value and all of its arguments.
pub fn of_filter_call(name: &str, args: &[Value]) -> Result<Vec<Value>, Error> {
    of_filter(name).map_or_else(|| Ok(args.to_vec()), |parameters| bind(name, parameters, args))
}

/// A test's value and all of its arguments.
pub fn of_test_call(name: &str, args: &[Value]) -> Result<Vec<Value>, Error> {
    bind(name, of_test(name), args)
}

fn bad(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn bind(of: &str, parameters: &[Parameter], args: &[Value]) -> Result<Vec<Value>, Error> {
    let (placed, kwargs): (&[Value], Kwargs) = minijinja::value::from_args(args)?;
    let Some((value, placed)) = placed.split_first() else { return Err(bad(format!("{of}: a value is needed"))) };
    if placed.len() > parameters.len() {
        return Err(bad(format!("{of} takes not more than {} argument(s)", parameters.len())));
    }
    let mut out = vec![value.clone()];
    for (i, &(name, take, default)) in parameters.iter().enumerate() {
        let named = if kwargs.has(name) { Some(kwargs.get::<Value>(name)?) } else { None };
        let given = match (placed.get(i), named) {
            (Some(_), Some(_)) => return Err(bad(format!("{of} got two values for {name}"))),
            (placed, named) => placed.cloned().or(named),
        };
        out.push(match (given, default) {
            (Some(v), Otherwise::None) if v.is_none() => v,
            (Some(v), _) => taken(of, name, take, &v)?,
            (None, Needed) => return Err(bad(format!("{of}: the argument {name} is missing"))),
            (None, Undefined) => Value::UNDEFINED,
            (None, Otherwise::None) => Value::from(()),
            (None, False) => Value::from(false),
            (None, True) => Value::from(true),
            (None, Otherwise::Whole(n)) => Value::from(n),
            (None, Otherwise::Text(text)) => Value::from(text),
        });
    }
    kwargs.assert_all_used().map_err(|_| bad(format!("{of} got an argument under a name that it does not know")))?;
    Ok(out)
}

fn taken(of: &str, name: &str, take: Take, v: &Value) -> Result<Value, Error> {
    match (take, v.kind()) {
        (Any, _) => Ok(v.clone()),
        (Truth, _) => Ok(Value::from(v.is_true())),
        (Flag, ValueKind::Bool) => Ok(v.clone()),
        (Flag, ValueKind::Number) if v.is_integer() => Ok(Value::from(v.is_true())),
        (Whole, ValueKind::Bool) => Ok(Value::from(i64::from(v.is_true()))),
        (Whole, ValueKind::Number) if v.is_integer() => Ok(v.clone()),
        (Text, ValueKind::String) => Ok(v.clone()),
        _ => Err(bad(format!("{of}: {name} cannot be of the type '{}'", pytext::type_name(v)))),
    }
}
