//! Jinja's tests, which follow `is`.

use crate::values::{is_dict, is_macro};
use crate::{bounds, names, operators, pypercent, pytext};
use minijinja::tests as theirs;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value};

pub fn add(env: &mut Environment<'static>) {
    for (names, operator) in [
        (&["eq", "equalto", "=="][..], "=="),
        (&["ne", "!="], "!="),
        (&["lt", "lessthan", "<"], "<"),
        (&["le", "<="], "<="),
        (&["gt", "greaterthan", ">"], ">"),
        (&["ge", ">="], ">="),
        (&["in"], "in"),
    ] {
        for name in names {
            bounds::test(env, name, move |a: Value, b: Value| operators::compare(&a, operator, &b));
        }
    }
    bounds::test(env, "defined", |v: Value| !v.is_undefined());
    bounds::test(env, "undefined", |v: Value| v.is_undefined());
    bounds::test(env, "none", |v: Value| v.is_none());
    bounds::test(env, "boolean", |v: Value| v.kind() == ValueKind::Bool);
    bounds::test(env, "true", |v: Value| v.kind() == ValueKind::Bool && v.is_true());
    bounds::test(env, "false", |v: Value| v.kind() == ValueKind::Bool && !v.is_true());
    bounds::test(env, "integer", |v: Value| v.kind() == ValueKind::Number && v.is_integer());
    bounds::test(env, "float", |v: Value| v.kind() == ValueKind::Number && !v.is_integer());
    bounds::test(env, "number", |v: Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
    bounds::test(env, "string", |v: Value| v.kind() == ValueKind::String);
    bounds::test(env, "mapping", |v: Value| is_dict(&v));
    bounds::test(env, "sequence", |v: Value| match v.kind() {
        ValueKind::Map => is_dict(&v),
        kind => matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Undefined),
    });
    bounds::test(env, "iterable", |v: Value| match v.kind() {
        ValueKind::Map => is_dict(&v),
        kind => matches!(kind, ValueKind::String | ValueKind::Seq | ValueKind::Iterable | ValueKind::Undefined),
    });
    bounds::test(env, "callable", |v: Value| matches!(v.kind(), ValueKind::Plain | ValueKind::Undefined) || is_macro(&v));
    bounds::test(env, "escaped", |v: Value| v.is_safe());
    bounds::test(env, "sameas", |a: Value, b: Value| !a.is_undefined() && theirs::is_sameas(&a, &b));
    bounds::test(env, "lower", |v: Value| all_cased(&pytext::str(&v), char::is_uppercase));
    bounds::test(env, "upper", |v: Value| all_cased(&pytext::str(&v), char::is_lowercase));
    let divides = |v: &Value, n: &Value| -> Result<bool, Error> { operators::compare(&pypercent::modulo(v, n)?, "==", &Value::from(0)) };
    bounds::test(env, "divisibleby", move |v: Value, n: Value| divides(&v, &n));
    bounds::test(env, "even", move |v: Value| divides(&v, &Value::from(2)));
    bounds::test(env, "odd", |v: Value| operators::compare(&pypercent::modulo(&v, &Value::from(2))?, "==", &Value::from(1)));
    for (name, all) in [("filter", names::FILTERS), ("test", names::TESTS)] {
        bounds::test(env, name, move |v: Value| match v.as_str() {
            Some(name) => Ok(all.contains(&name)),
            None => Err(Error::new(ErrorKind::InvalidOperation, "the name of a filter or a test is needed")),
        });
    }
}

/// `str.islower` and `.isupper`: some letters of the case, and none of the other.
fn all_cased(s: &str, other: fn(char) -> bool) -> bool {
    s.chars().any(|c| c.is_lowercase() || c.is_uppercase()) && !s.chars().any(other)
}
