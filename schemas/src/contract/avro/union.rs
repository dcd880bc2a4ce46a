//! Which branch of a union does a value take?
//!
//! The one that fits the value as it is written (`5` a long, `5.0` a double, a text a string before anything else), in the order of the schema; of
//! several records, the first that knows all keys and lacks none. `{"branch": value}`, as Avro's own JSON has it, names the branch.

use crate::contract::avro::types::{Avro, Field, Id, Type};
use crate::contract::misfit::{Misfit, Written};
use crate::contract::work::{Work, push_long};
use crate::scan::{Next, Scanner};

/// The branch of a union.
pub(crate) enum Choice {
    Branch(usize),
    /// As the key of an object, which is read.
    Named(usize),
    /// A scalar, which is written.
    Written,
}

impl Avro {
    pub(in crate::contract) fn union(&self, branches: &[Id], s: &mut Scanner<'_>, out: &mut Vec<u8>, work: &mut Work) -> Written {
        match self.choose(branches, s, out, work)? {
            Choice::Written => Ok(()),
            Choice::Branch(branch) => self.branch(branches, branch, s, out, work),
            Choice::Named(branch) => {
                // The scanner stands behind the key that names the branch.
                let name = self.types[branches[branch]].name();
                self.branch(branches, branch, s, out, work).map_err(|misfit| misfit.in_key(name))?;
                match s.next_key(false)? {
                    None => Ok(()),
                    Some(_) => Err(Misfit::at(s, format!("a second key beside {name}, which names the branch of a union"))),
                }
            }
        }
    }

    pub(in crate::contract) fn branch(
        &self,
        branches: &[Id],
        branch: usize,
        s: &mut Scanner<'_>,
        out: &mut Vec<u8>,
        work: &mut Work,
    ) -> Written {
        push_long(out, branch as i64);
        self.value(branches[branch], s, out, work)
    }

    #[inline(never)]
    pub(in crate::contract) fn choose(
        &self,
        branches: &[Id],
        s: &mut Scanner<'_>,
        out: &mut Vec<u8>,
        work: &mut Work,
    ) -> Result<Choice, Box<Misfit>> {
        let next = s.peek()?;
        if next == Next::Object {
            return self.choose_object(branches, s);
        }
        let mut candidates = (0..branches.len()).filter(|branch| self.suits(branches[*branch], next));
        let Some(first) = candidates.next() else { return Err(Misfit::expected(s, self.any_of(branches))) };
        let Some(second) = candidates.next() else { return Ok(Choice::Branch(first)) };
        // Scalars only: no branch is tried that goes deeper.
        let is_integer = next == Next::Number && {
            let mut probe = *s;
            probe.number()?.integer
        };
        let rank = |branch: usize| match (&self.types[branches[branch]], next) {
            (Type::Text, _) => 0,
            (Type::Float | Type::Double | Type::Decimal { .. }, Next::Number) if is_integer => 2,
            (Type::Float | Type::Double | Type::Decimal { .. }, _) => 1,
            (_, Next::Number) if !is_integer => 2,
            _ => 1,
        };
        for wanted in 0..=2 {
            for branch in [first, second].into_iter().chain(candidates.clone()).filter(|branch| rank(*branch) == wanted) {
                let (before, start) = (*s, out.len());
                push_long(out, branch as i64);
                if self.leaf(&self.types[branches[branch]], s, out, work).is_ok() {
                    return Ok(Choice::Written);
                }
                *s = before;
                out.truncate(start);
            }
        }
        Err(Misfit::expected(s, self.any_of(branches)))
    }

    /// Decided by the keys alone, so that a union in a union in a union is read once.
    pub(in crate::contract) fn choose_object(&self, branches: &[Id], s: &mut Scanner<'_>) -> Result<Choice, Box<Misfit>> {
        let objects = || (0..branches.len()).filter(|b| matches!(self.types[branches[*b]], Type::Record(_) | Type::Map(_)));
        let mut probe = *s;
        probe.open()?;
        if let Some(key) = probe.next_key(true)? {
            let is_field = |b: usize| match &self.types[branches[b]] {
                Type::Record(record) => record.by_name.contains_key(&*key.cow()),
                _ => true,
            };
            let named = (0..branches.len()).find(|b| key.is(self.types[branches[*b]].name()));
            if let Some(branch) = named
                && !objects().any(is_field)
            {
                *s = probe;
                return Ok(Choice::Named(branch));
            }
        }
        let mut candidates = objects();
        let Some(first) = candidates.next() else { return Err(Misfit::expected(s, self.any_of(branches))) };
        if candidates.next().is_none() {
            return Ok(Choice::Branch(first));
        }
        let mut keys = Vec::new();
        let mut probe = *s;
        probe.open()?;
        while let Some(key) = probe.next_key(keys.is_empty())? {
            keys.push(key.cow());
            probe.skip()?;
        }
        let fits = |b: usize| match &self.types[branches[b]] {
            Type::Record(record) => {
                let known = keys.iter().all(|key| record.by_name.contains_key(&**key));
                let needed = |field: &&Field| field.default.is_none() && field.null.is_none();
                known && record.fields.iter().filter(needed).all(|field| keys.iter().any(|key| **key == *field.name))
            }
            _ => true,
        };
        match objects().find(|b| fits(*b)) {
            Some(branch) => Ok(Choice::Branch(branch)),
            None => Err(Misfit::at(s, format!("its keys fit none of {}", self.any_of(branches)))),
        }
    }

    /// Whether a type may take what starts like this.
    pub(in crate::contract) fn suits(&self, id: Id, next: Next) -> bool {
        match &self.types[id] {
            Type::Null => next == Next::Null,
            Type::Boolean => next == Next::Bool,
            Type::Int | Type::Long => next == Next::Number,
            Type::Float | Type::Double | Type::Decimal { .. } | Type::Date | Type::Time(_) | Type::Timestamp { .. } => {
                matches!(next, Next::Number | Next::Text)
            }
            Type::Bytes | Type::Text | Type::Fixed { .. } | Type::Enum { .. } | Type::Uuid { .. } => next == Next::Text,
            Type::Array(_) => next == Next::Array,
            Type::Map(_) | Type::Record(_) => next == Next::Object,
            Type::Union(_) => false,
        }
    }

    pub(in crate::contract) fn any_of(&self, branches: &[Id]) -> String {
        branches.iter().map(|b| self.types[*b].name()).collect::<Vec<_>>().join(" or ")
    }
}
