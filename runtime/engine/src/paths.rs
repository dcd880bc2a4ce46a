//! Which source has which tag path: one path is one tag of one source, on the whole site.
//!
//! What is known before connecting is compared by `check`. What sources discover (a browse, a Sparkplug birth, an MQTT topic) is claimed here, first come
//! first served; the second is told whose it is, and its connector turns that part bad. A claim ends with the tag.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// The tag paths of a site, with their sources.
#[derive(Default, Debug)]
pub struct Paths(Mutex<HashMap<Arc<str>, Arc<str>>>);

impl Paths {
    /// Claims a path. Errors: the source that has it.
    pub fn claim(&self, path: &Arc<str>, source: &Arc<str>) -> Result<(), Arc<str>> {
        match self.0.lock().entry(path.clone()) {
            Entry::Vacant(vacant) => _ = vacant.insert(source.clone()),
            Entry::Occupied(taken) if taken.get() != source => return Err(taken.get().clone()),
            Entry::Occupied(_) => {}
        }
        Ok(())
    }

    /// Gives a path back, if the source has it.
    pub fn release(&self, path: &Arc<str>, source: &Arc<str>) {
        if let Entry::Occupied(taken) = self.0.lock().entry(path.clone())
            && taken.get() == source
        {
            taken.remove();
        }
    }

    /// Gives back every path of a source.
    pub fn release_all(&self, source: &Arc<str>) {
        self.0.lock().retain(|_, by| by != source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_the_source_that_came_first_until_its_tag_goes() {
        let paths = Paths::default();
        let [path, a, b]: [Arc<str>; 3] = ["acme/plant/force", "acme/plant/a", "acme/plant/b"].map(Arc::from);
        assert_eq!(paths.claim(&path, &a), Ok(()));
        assert_eq!(paths.claim(&path, &a), Ok(()));
        assert_eq!(paths.claim(&path, &b), Err(a.clone()));
        paths.release(&path, &b);
        assert_eq!(paths.claim(&path, &b), Err(a.clone()));
        paths.release(&path, &a);
        assert_eq!(paths.claim(&path, &b), Ok(()));
        paths.release_all(&b);
        assert_eq!(paths.claim(&path, &a), Ok(()));
    }
}
