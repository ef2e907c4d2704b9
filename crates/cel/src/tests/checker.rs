//! What the checker says, and of which type expressions are.

use super::env;
use crate::types::{Shape, Type};

fn check(cases: &[(&str, &str)]) {
    let object =
        Shape::object("Example", [("name".to_owned(), Type::String.into()), ("count".to_owned(), Type::Int.into())]);
    let env = env()
        .variable("self", object.clone())
        .variable("any", Type::Dyn)
        .variable("labels", Type::map(Type::String, Type::String))
        .variable("ports", Type::list(object.ty().clone()))
        .named_type(object.ty().clone())
        .build();
    for (expression, want) in cases {
        let got = match env.compile(expression) {
            Ok(program) => program.result_type().to_string(),
            Err(issues) => {
                issues.iter().map(|i| format!("{}: {}", i.location.column, i.message)).collect::<Vec<_>>().join("\n")
            }
        };
        assert_eq!(&got, want, "{expression}");
    }
}

#[test]
fn expressions_have_types() {
    check(&[
        ("1 + 2", "int"),
        ("any + 1", "int"),
        ("any.b.c", "dyn"),
        ("any > 1", "bool"),
        ("self.name", "string"),
        ("labels.x", "string"),
        ("labels['x'].size()", "int"),
        ("ports.map(p, p.count)", "list(int)"),
        ("ports.filter(p, p.count > 1)", "list(Example)"),
        ("[]", "list(dyn)"),
        ("{}", "map(dyn, dyn)"),
        ("[1, any]", "list(dyn)"),
        ("[[], [1]]", "list(list(int))"),
        ("true ? 1 : any", "dyn"),
        ("optional.of(1)", "optional_type(int)"),
        ("labels.?x.orValue('')", "string"),
        ("self.?name", "optional_type(string)"),
        ("type(1)", "type(int)"),
        ("int", "type(int)"),
        ("null", "null"),
        ("timestamp('2020-01-01T00:00:00Z')", "timestamp"),
        ("labels.transformMap(k, v, size(v))", "map(string, int)"),
        ("Example{name: 'x'}.count", "int"),
    ]);
}

#[test]
fn mistakes_are_told_in_cel_gos_words() {
    check(&[
        ("x", "0: undeclared reference to 'x' (in container '')"),
        (
            "x.y && z",
            "0: undeclared reference to 'x' (in container '')\n7: undeclared reference to 'z' (in container '')",
        ),
        ("1 + 'a'", "2: found no matching overload for '_+_' applied to '(int, string)'"),
        ("self.nope", "4: undefined field 'nope'"),
        ("has(self.nope)", "3: undefined field 'nope'"),
        ("self.name.size", "9: type 'string' does not support field selection"),
        ("self.name.startsWith(1)", "20: found no matching overload for 'startsWith' applied to 'string.(int)'"),
        ("nofn(1)", "4: undeclared reference to 'nofn' (in container '')"),
        ("1.nofn()", "6: undeclared reference to 'nofn' (in container '')"),
        ("[1, 'a']", "4: expected type 'int' but found 'string'"),
        ("{'a': 1, 'b': true}", "14: expected type 'int' but found 'bool'"),
        (
            "self.count.all(x, true)",
            "4: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)",
        ),
        ("[1].all(x, x)", "7: found no matching overload for '_&&_' applied to '(bool, int)'"),
        ("[1].exists(x, y)", "14: undeclared reference to 'y' (in container '')"),
        ("true ? 1 : 'a'", "5: found no matching overload for '_?_:_' applied to '(bool, int, string)'"),
        ("labels[1]", "6: found no matching overload for '_[_]' applied to '(map(string, string), int)'"),
        ("1 in labels", "2: found no matching overload for '@in' applied to '(int, map(string, string))'"),
        ("!1", "0: found no matching overload for '!_' applied to '(int)'"),
        ("Example{nope: 1}", "12: undefined field 'nope'"),
        ("Example{name: 1}", "12: expected type of field 'name' is 'string' but provided type is 'int'"),
        ("Nope{a: 1}", "4: undeclared reference to 'Nope' (in container '')"),
        ("int{a: 1}", "3: 'int' is not a message type"),
        ("'a'.matches('(')", "12: invalid matches argument"),
        ("duration('x')", "9: invalid duration argument"),
        ("timestamp('x')", "10: invalid timestamp argument"),
    ]);
}
