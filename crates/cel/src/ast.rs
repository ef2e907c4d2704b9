//! The tree of an expression (`common/ast` of cel-go): every node has a number of its own, under which the checker
//! keeps its type, and the byte of the text it stands at.

/// The number of a node.
pub(crate) type Id = usize;

/// Operators are functions with these names.
pub(crate) mod op {
    pub(crate) const CONDITIONAL: &str = "_?_:_";
    pub(crate) const AND: &str = "_&&_";
    pub(crate) const OR: &str = "_||_";
    pub(crate) const NOT: &str = "!_";
    pub(crate) const NEGATE: &str = "-_";
    pub(crate) const EQUALS: &str = "_==_";
    pub(crate) const NOT_EQUALS: &str = "_!=_";
    pub(crate) const ADD: &str = "_+_";
    pub(crate) const IN: &str = "@in";
    pub(crate) const INDEX: &str = "_[_]";
    pub(crate) const OPT_INDEX: &str = "_[?_]";
    pub(crate) const OPT_SELECT: &str = "_?._";
    pub(crate) const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
    pub(crate) const MAP_INSERT: &str = "cel.@mapInsert";

    /// The function of an infix operator of the text, and how tightly it binds.
    pub(crate) fn infix(sign: &str) -> Option<(&'static str, u8)> {
        Some(match sign {
            "||" => (OR, 1),
            "&&" => (AND, 2),
            "==" => (EQUALS, 3),
            "!=" => (NOT_EQUALS, 3),
            "<" => ("_<_", 3),
            "<=" => ("_<=_", 3),
            ">" => ("_>_", 3),
            ">=" => ("_>=_", 3),
            "in" => (IN, 3),
            "+" => (ADD, 4),
            "-" => ("_-_", 4),
            "*" => ("_*_", 5),
            "/" => ("_/_", 5),
            "%" => ("_%_", 5),
            _ => return None,
        })
    }
}

/// The variable in which comprehensions gather their result; no text can name it.
pub(crate) const ACCUMULATOR: &str = "@result";

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    pub(crate) id: Id,
    /// The byte of the text it stands at.
    pub(crate) at: usize,
    /// How many levels there are from here down, which bounds every recursion over the tree.
    pub(crate) height: usize,
    pub(crate) kind: Kind,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
}

/// An entry of a map.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Expr,
    pub(crate) value: Expr,
    /// `?key: value`: left out if the value is none.
    pub(crate) optional: bool,
}

/// A field of a made object.
#[derive(Clone, Debug)]
pub(crate) struct FieldInit {
    pub(crate) name: String,
    pub(crate) at: usize,
    pub(crate) value: Expr,
    pub(crate) optional: bool,
}

/// A loop over a list or the keys of a map, what all macros with a variable become.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    /// The element of a list or the key of a map; with a second variable, the index of a list.
    pub(crate) var: String,
    /// The element of a list or the value of a map.
    pub(crate) var2: Option<String>,
    pub(crate) range: Expr,
    pub(crate) accu: String,
    pub(crate) init: Expr,
    /// Looked at before each step; the loop ends when it is false.
    pub(crate) condition: Expr,
    pub(crate) step: Expr,
    pub(crate) result: Expr,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Literal(Literal),
    Ident(String),
    /// `operand.field`, or with `test`, `has(operand.field)`.
    Select {
        operand: Box<Expr>,
        field: String,
        test: bool,
    },
    Call {
        target: Option<Box<Expr>>,
        function: String,
        args: Vec<Expr>,
    },
    /// The numbers of the optional ones among the items are kept beside them.
    List {
        items: Vec<Expr>,
        optional: Vec<usize>,
    },
    Map(Vec<Entry>),
    Struct {
        name: String,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

impl Kind {
    /// The nodes right below.
    pub(crate) fn children(&self) -> Vec<&Expr> {
        match self {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Call { target, args, .. } => target.as_deref().into_iter().chain(args).collect(),
            Kind::List { items, .. } => items.iter().collect(),
            Kind::Map(entries) => entries.iter().flat_map(|e| [&e.key, &e.value]).collect(),
            Kind::Struct { fields, .. } => fields.iter().map(|f| &f.value).collect(),
            Kind::Comprehension(c) => vec![&c.range, &c.init, &c.condition, &c.step, &c.result],
        }
    }

    fn children_mut(&mut self) -> Vec<&mut Expr> {
        match self {
            Kind::Literal(_) | Kind::Ident(_) => Vec::new(),
            Kind::Select { operand, .. } => vec![operand],
            Kind::Call { target, args, .. } => target.as_deref_mut().into_iter().chain(args).collect(),
            Kind::List { items, .. } => items.iter_mut().collect(),
            Kind::Map(entries) => entries.iter_mut().flat_map(|e| [&mut e.key, &mut e.value]).collect(),
            Kind::Struct { fields, .. } => fields.iter_mut().map(|f| &mut f.value).collect(),
            Kind::Comprehension(c) => {
                vec![&mut c.range, &mut c.init, &mut c.condition, &mut c.step, &mut c.result]
            }
        }
    }
}

impl Expr {
    /// The name `a.b.c` this node may also be.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", operand.qualified_name()?)),
            _ => None,
        }
    }

    /// The identifier this node is.
    pub(crate) fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            _ => None,
        }
    }
}

/// Makes nodes and numbers them.
#[derive(Default)]
pub(crate) struct Factory {
    next: Id,
}

impl Factory {
    /// How many numbers were given.
    pub(crate) fn count(&self) -> usize {
        self.next
    }

    pub(crate) fn node(&mut self, at: usize, kind: Kind) -> Expr {
        let id = self.next;
        self.next += 1;
        let height = 1 + kind.children().iter().map(|c| c.height).max().unwrap_or(0);
        Expr { id, at, height, kind }
    }

    pub(crate) fn ident(&mut self, at: usize, name: &str) -> Expr {
        self.node(at, Kind::Ident(name.to_owned()))
    }

    pub(crate) fn literal(&mut self, at: usize, literal: Literal) -> Expr {
        self.node(at, Kind::Literal(literal))
    }

    pub(crate) fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.node(at, Kind::Call { target: None, function: function.to_owned(), args })
    }

    pub(crate) fn member(&mut self, at: usize, function: &str, target: Expr) -> Expr {
        let target = Some(Box::new(target));
        self.node(at, Kind::Call { target, function: function.to_owned(), args: Vec::new() })
    }

    pub(crate) fn list(&mut self, at: usize, items: Vec<Expr>) -> Expr {
        self.node(at, Kind::List { items, optional: Vec::new() })
    }

    /// The same tree with numbers of its own.
    pub(crate) fn copy(&mut self, expr: &Expr) -> Expr {
        let mut copy = expr.clone();
        self.renumber(&mut copy);
        copy
    }

    fn renumber(&mut self, expr: &mut Expr) {
        expr.id = self.next;
        self.next += 1;
        for child in expr.kind.children_mut() {
            self.renumber(child);
        }
    }
}
