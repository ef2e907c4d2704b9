//! What expressions cost, beforehand and really.

use super::env;
use crate::eval::{Bindings, Budget};
use crate::types::{Shape, Type};
use crate::value::Value;

/// An environment with `input`, `arg1` and `arg2` of a shape.
fn estimate(expression: &str, shapes: &[(&str, Shape)]) -> (u64, u64) {
    let env = shapes.iter().fold(env(), |env, (name, shape)| env.variable(name, shape.clone())).build();
    let cost = env.compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}")).estimate();
    (cost.min, cost.max)
}

fn text(max: u64) -> Shape {
    Shape::bounded(Type::String, max)
}

#[test]
fn estimates_follow_the_bounds() {
    let object = Shape::object("Example", [("n".to_owned(), Type::Int.into())]);
    let list = |max| Shape::list(object.clone(), Some(max));
    let map = |value: Shape, max| Shape::map(text(10), value, Some(max));
    let none: Vec<(&str, Shape)> = Vec::new();
    for (expression, shapes, want) in [
        ("'Hello World!'", none.clone(), (0, 0)),
        ("input", vec![("input", Shape::from(Type::list(Type::Int)))], (1, 1)),
        ("input['key']", vec![("input", Type::map(Type::String, Type::String).into())], (2, 2)),
        ("input.n", vec![("input", object.clone())], (2, 2)),
        ("has(input.n)", vec![("input", object.clone())], (1, 1)),
        ("[1, 2, 3]", none.clone(), (10, 10)),
        ("{'a': 1, 'b': 2}", none.clone(), (30, 30)),
        ("input.all(x, true)", vec![("input", list(100))], (2, 302)),
        ("input.all(x, x.all(y, true))", vec![("input", Shape::list(list(10), Some(50)))], (2, 1752)),
        ("[1, 2, 3].all(x, true)", none.clone(), (20, 20)),
        ("input.matches('[0-9]')", vec![("input", text(500))], (3, 103)),
        ("'123'.matches('[0-9]')", none.clone(), (2, 2)),
        ("true || false", none.clone(), (0, 0)),
        ("1 < 2", none.clone(), (1, 1)),
        ("1 == 2", none.clone(), (1, 1)),
        ("2 in [1, 2, 3]", none.clone(), (13, 13)),
        ("true ? 1 : 2", none.clone(), (0, 0)),
        ("size('123')", none.clone(), (1, 1)),
        ("bytes(input)", vec![("input", text(500))], (1, 51)),
        ("string(1)", none.clone(), (1, 1)),
        ("input.contains(arg1)", vec![("input", text(500)), ("arg1", text(500))], (2, 2502)),
        ("input.startsWith(arg1)", vec![("input", text(500)), ("arg1", text(500))], (2, 52)),
        ("input.size()", vec![("input", text(500))], (2, 2)),
        (
            "(arg1 > 2 ? input : arg2).all(y, true)",
            vec![("arg1", Type::Int.into()), ("input", list(1)), ("arg2", list(1))],
            (4, 7),
        ),
        ("input.all(k, input[k].n > 3)", vec![("input", map(object.clone(), 10))], (2, 82)),
        ("input.all(k, input[k].all(x, true))", vec![("input", map(map(object.clone(), 10), 5))], (2, 187)),
        ("input.all(k, k.contains(k))", vec![("input", map(object.clone(), 5))], (2, 32)),
        ("(input + arg1).all(x, true)", vec![("input", list(10)), ("arg1", list(10))], (4, 64)),
        ("'abcdefg'.contains(input + arg1)", vec![("input", text(10)), ("arg1", text(10))], (2, 6)),
        ("input.all(x, true)", vec![("input", Type::list(Type::Int).into())], (2, u64::MAX)),
        ("cel.bind(x, input, x.size() + x.size())", vec![("input", text(5))], (16, 16)),
        ("quantity('12').add(quantity('1'))", none.clone(), (3, 3)),
    ] {
        assert_eq!(estimate(expression, &shapes), want, "{expression}");
    }
}

/// As upstream's `library/cost_test.go` expects them.
#[test]
fn libraries_are_estimated_as_upstream() {
    let strings = "['012345678901', '012345678901', '012345678901', '012345678901', '012345678901']";
    let check = |expression: &str, want: (u64, u64)| assert_eq!(estimate(expression, &[]), want, "{expression}");
    for (list, want) in [
        ("[1, 2, 3, 4, 5]", (15, 15)),
        ("[uint(1), uint(2), uint(3), uint(4), uint(5)]", (20, 20)),
        ("[1.0, 2.0, 3.0, 4.0, 5.0]", (15, 15)),
        ("[duration('1s'), duration('2s'), duration('3s'), duration('4s'), duration('5s')]", (20, 20)),
        (strings, (15, 25)),
    ] {
        for call in ["isSorted()", "max()", "min()"] {
            check(&format!("{list}.{call}"), want);
        }
    }
    check("[1, 2, 3, 4, 5].sum()", (15, 15));
    check("[1, 2, 3, 4, 5].indexOf(3)", (15, 15));
    check("'01234567890123456789012345678901234567890123456789'.lastIndexOf('123')", (5, 5));
    for call in ["getScheme()", "getHostname()", "getHost()", "getPort()", "getEscapedPath()", "getQuery()"] {
        check(&format!("url('https:://kubernetes.io/').{call}"), (4, 4));
    }
    for (address, base) in [("ip('192.168.0.1')", 2), ("ip('2001:db8:3333:4444:5555:6666:7777:8888')", 4)] {
        check(address, (base, base));
        for call in ["family()", "isUnspecified()", "isLoopback()", "isLinkLocalUnicast()", "isGlobalUnicast()"] {
            check(&format!("{address}.{call}"), (base + 1, base + 1));
        }
        check(&format!("{address} == ip('192.168.0.1')"), (base + 3, base + 3));
    }
    check("ip.isCanonical('192.168.0.1')", (3, 3));
    check("ip.isCanonical('2001:db8:3333:4444:5555:6666:7777:8888')", (8, 8));
    check("cidr('192.168.0.0/16').masked()", (3, 3));
    check("cidr('192.168.0.0/16') == cidr('2001:db8::/32')", (5, 5));
    check("cidr('192.168.0.0/16').containsCIDR(cidr('192.0.0.0/30'))", (7, 11));
    check("cidr('192.168.0.0/16').containsCIDR('192.0.0.0/30')", (7, 11));
    check("cidr('192.168.0.0/16').containsIP(ip('192.0.0.1'))", (4, 7));
    check("cidr('192.168.0.0/16').containsIP('192.169.0.1')", (5, 8));
}

#[test]
fn what_was_spent_is_counted() {
    let env = env().variable("list", Type::list(Type::Int)).variable("s", Type::String).build();
    let items: Vec<Value<'_>> = [1, 2, 3].map(Value::Int).into();
    let bindings = Bindings::new().with("list", items).with("s", "x".repeat(50));
    for (expression, want) in [
        ("1", 0),
        ("list", 1),
        ("list[0]", 2),
        ("1 + 2", 1),
        // Constants are made beforehand.
        ("[1, 2, 3].size()", 1),
        ("[list, list]", 12),
        ("list.all(x, true)", 1 + 3 * 3 + 1),
        ("list.all(x, x > 1)", 1 + 5 + 2 + 1),
        ("list.all(x, x < 1) || true", 1 + 5 + 2 + 1),
        ("list.map(x, x)", 1 + 3 * (1 + 10 + 1 + 1) + 1),
        ("list.filter(x, x > 1)", 1 + 3 * 2 + 2 * 13 + 1 + 1),
        ("2 in list", 1 + 3),
        ("s == s", 2 + 5),
        ("s + s", 2 + 10),
        ("s.startsWith(s)", 2 + 5),
        ("s.contains('abc')", 1 + 5),
        ("s.matches('a.*b')", 1 + 6),
        ("s.size()", 2),
        ("dyn(s).size()", 3),
    ] {
        let mut budget = Budget::new(1000);
        let program = env.compile(expression).expect(expression);
        program.eval(&bindings, &mut budget).expect(expression);
        assert_eq!(budget.used(), want, "{expression}");
        let estimate = program.estimate();
        assert!(budget.used() <= estimate.max, "{expression}: {} of {estimate:?}", budget.used());
    }
}

#[test]
fn a_budget_is_for_all_evaluations() {
    let program = env().variable("x", Type::Int).build().compile("x + 1").expect("an expression");
    let bindings = Bindings::new().with("x", 1);
    let mut budget = Budget::new(5);
    assert!(program.eval(&bindings, &mut budget).is_ok() && program.eval(&bindings, &mut budget).is_ok());
    let error = program.eval(&bindings, &mut budget).expect_err("the budget is used up");
    assert_eq!(error.to_string(), "operation cancelled: actual cost limit exceeded");
}
