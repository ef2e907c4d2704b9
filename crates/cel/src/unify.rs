//! Whether a type can stand where another is wanted, and what that says of type variables (`checker/types.go`).

use crate::types::Type;

/// What is known of the type variables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bindings(Vec<Option<Type>>);

impl Bindings {
    /// A variable of which nothing is known.
    pub(crate) fn fresh(&mut self) -> Type {
        self.0.push(None);
        Type::Var(self.0.len() - 1)
    }

    fn find(&self, t: &Type) -> Option<&Type> {
        match t {
            Type::Var(n) => self.0.get(*n)?.as_ref(),
            _ => None,
        }
    }

    fn bind(&mut self, var: &Type, to: Type) {
        if let Type::Var(n) = var
            && let Some(slot) = self.0.get_mut(*n)
        {
            *slot = Some(to);
        }
    }

    /// The type with what is known put in; with `to_dyn`, what is not known becomes `dyn`.
    pub(crate) fn resolve(&self, t: &Type, to_dyn: bool) -> Type {
        t.substitute(&|t| match self.find(t) {
            Some(known) => Some(self.resolve(known, to_dyn)),
            None => (to_dyn && matches!(t, Type::Var(_))).then_some(Type::Dyn),
        })
    }

    /// Whether `from` can stand where `to` is wanted. What is learnt of variables is kept only then.
    pub(crate) fn assign(&mut self, from: &Type, to: &Type) -> bool {
        self.assign_all(std::slice::from_ref(from), std::slice::from_ref(to))
    }

    /// The same for lists of types.
    pub(crate) fn assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        let before = self.0.clone();
        let fits = from.len() == to.len() && from.iter().zip(to).all(|(a, b)| self.fits(a, b));
        if !fits {
            self.0 = before;
        }
        fits
    }

    fn fits(&mut self, a: &Type, b: &Type) -> bool {
        if matches!(b, Type::Var(_)) {
            match self.stand_for(a, b) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if matches!(a, Type::Var(_)) {
            return self.stand_for(b, a).0;
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, _) => {
                matches!(b, Type::Null | Type::Opaque(..) | Type::Object(_) | Type::Duration | Type::Timestamp)
            }
            (Type::List(a), Type::List(b)) => self.fits(a, b),
            (Type::Map(a, x), Type::Map(b, y)) => self.fits(a, b) && self.fits(x, y),
            (Type::Opaque(a, p), Type::Opaque(b, q)) => {
                a == b && p.len() == q.len() && p.iter().zip(q.iter()).all(|(p, q)| self.fits(p, q))
            }
            // A type is a type: what of makes no difference to overloads.
            (Type::Type(_), Type::Type(_)) => true,
            _ => a == b,
        }
    }

    /// Whether the variable can stand for `t`, and whether it already stood for something.
    fn stand_for(&mut self, t: &Type, var: &Type) -> (bool, bool) {
        let Some(known) = self.find(var).cloned() else {
            let free = !self.occurs(var, t);
            if free || t == var {
                if t != var {
                    self.bind(var, t.clone());
                }
                return (true, false);
            }
            return (false, false);
        };
        if *t == known {
            return (true, true);
        }
        if self.fits(t, &known) {
            self.bind(var, most_general(t, &known));
            return (true, true);
        }
        (false, true)
    }

    /// Whether `var` is part of `t`; a variable bound to a type with itself in it would have no end.
    fn occurs(&self, var: &Type, t: &Type) -> bool {
        if t == var {
            return true;
        }
        match self.find(t) {
            Some(known) => self.occurs(var, known),
            None => t.params().into_iter().any(|p| self.occurs(var, p)),
        }
    }
}

/// The more general of two types that fit.
pub(crate) fn most_general(a: &Type, b: &Type) -> Type {
    if less_specific(a, b) { a.clone() } else { b.clone() }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    if a.is_dyn() || matches!(a, Type::Var(_)) {
        return true;
    }
    if b.is_dyn() || matches!(b, Type::Var(_)) {
        return false;
    }
    match (a, b) {
        (Type::List(a), Type::List(b)) => less_specific(a, b),
        (Type::Map(a, x), Type::Map(b, y)) => less_specific(a, b) && less_specific(x, y),
        (Type::Opaque(a, p), Type::Opaque(b, q)) => {
            a == b && p.len() == q.len() && p.iter().zip(q.iter()).all(|(p, q)| less_specific(p, q))
        }
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_learn_what_they_stand_for() {
        let mut b = Bindings::default();
        let v = b.fresh();
        assert!(b.assign(&Type::list(Type::Int), &Type::list(v.clone())));
        assert_eq!(b.resolve(&v, true), Type::Int);
        assert!(!b.assign(&Type::String, &v));
        assert!(b.assign(&Type::Dyn, &v), "the variable widens");
        assert_eq!(b.resolve(&v, true), Type::Dyn);
    }

    #[test]
    fn a_variable_never_contains_itself() {
        let mut b = Bindings::default();
        let v = b.fresh();
        assert!(!b.assign(&Type::list(v.clone()), &v));
        assert!(b.assign(&v, &v));
        assert_eq!(b.resolve(&v, true), Type::Dyn);
        let w = b.fresh();
        assert!(b.assign(&v, &w) && !b.assign(&Type::list(w.clone()), &v));
    }

    #[test]
    fn null_goes_with_what_may_be_absent() {
        let fits = |t: Type| Bindings::default().assign(&Type::Null, &t);
        assert!(fits(Type::opaque("x")) && fits(Type::Timestamp) && fits(Type::Dyn) && fits(Type::Null));
        assert!(!fits(Type::Int) && !fits(Type::list(Type::Int)) && !fits(Type::String));
    }
}
