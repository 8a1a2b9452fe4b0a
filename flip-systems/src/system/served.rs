//! Which object serves which item, however the config changes.
//!
//! ```text
//!  config position ──▶ system ──▶ item ──▶ share, position in it ──▶ dyn System
//!        ▲                                          │ its number, position in it
//!        └──────────────── locate ◀─────────────────┘   (what systems say without being asked)
//! ```
//!
//! A system of the config is served in shares: one that was opened first, and a further one for each time that items
//! came. An item stays with its share for as long as hooks see no difference in it, so its system touches nothing
//! when others come or go.

use std::collections::BTreeMap;
use std::sync::Arc;

use flip_core::RefreshCall;
use flip_core::config::{Config, Item, System as Spec};
use flip_core::id::{ItemId, ItemRef};

use super::{Assigned, Leftover, OpenError, Registry, System, Systems};

/// All that is served.
pub(super) struct Served {
    /// By position in the config.
    systems: BTreeMap<usize, One>,
    /// By number of the share, where that is: system and share in it.
    numbers: BTreeMap<usize, (usize, usize)>,
    /// The number of the next share.
    next: usize,
    /// Numbers of the servers that there ever were.
    servers: BTreeMap<String, usize>,
}

/// A system of the config.
struct One {
    /// As it was when its items were last looked at.
    spec: Spec,
    shares: Vec<Share>,
    /// By position of the item: share and position in it; none where no share could be opened.
    places: Vec<Option<(usize, usize)>>,
    /// Why some item is not served.
    trouble: Option<String>,
}

struct Share {
    object: Arc<dyn System>,
    number: usize,
    /// Position of each of its items in the config; none for those that are served no more.
    items: Vec<Option<usize>>,
}

/// A share to be opened: `system` has its items alone.
pub(super) struct Job {
    pub(super) position: usize,
    pub(super) number: usize,
    pub(super) system: Spec,
}

impl One {
    fn new(spec: &Spec) -> Self {
        let places = vec![None; spec.items.len()];
        Self { spec: spec.clone(), shares: Vec::new(), places, trouble: None }
    }
}

impl Served {
    pub(super) fn new(config: &Config) -> Self {
        let servers = config.servers.iter().enumerate().map(|(at, server)| (server.id.clone(), at));
        Self {
            systems: BTreeMap::new(),
            numbers: BTreeMap::new(),
            next: config.systems.len(),
            servers: servers.collect(),
        }
    }

    /// Who serves an item, and as which of its own.
    pub(super) fn find(&self, at: ItemRef) -> Option<(Arc<dyn System>, usize)> {
        let one = self.systems.get(&at.system)?;
        let (share, item) = (*one.places.get(at.item)?)?;
        Some((Arc::clone(&one.shares[share].object), item))
    }

    /// Why items of a system are not served, if there is a reason.
    pub(super) fn trouble(&self, system: usize) -> Option<String> {
        self.systems.get(&system)?.trouble.clone()
    }

    pub(super) fn locate(&self, item: ItemRef) -> Option<ItemRef> {
        let (system, share) = *self.numbers.get(&item.system)?;
        let at = (*self.systems.get(&system)?.shares.get(share)?.items.get(item.item)?)?;
        Some(ItemRef { system, item: at })
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Arc<dyn System>> {
        self.systems.values().flat_map(|one| &one.shares).map(|share| &share.object)
    }

    pub(super) fn refresh(&self, call: &RefreshCall) -> Vec<usize> {
        let Some(one) = self.systems.get(&call.system) else { return call.items.clone() };
        let place = |item: &usize| one.places.get(*item).copied().flatten();
        let mut gone: Vec<_> = call.items.iter().copied().filter(|item| place(item).is_none()).collect();
        for (at, share) in one.shares.iter().enumerate() {
            let mine = call.items.iter().filter_map(place).filter(|(share, _)| *share == at);
            let mine: Vec<_> = mine.map(|(_, item)| item).collect();
            if !mine.is_empty() {
                let lost = share.object.refresh(&mine, call.lifetime);
                gone.extend(lost.into_iter().filter_map(|item| share.items.get(item).copied().flatten()));
            }
        }
        gone
    }

    pub(super) async fn observe(&self) -> Result<Vec<(ItemRef, bool)>, String> {
        let mut all = BTreeMap::new();
        for (&system, one) in &self.systems {
            for share in &one.shares {
                let here = share.object.observe().await?;
                for (at, item) in share.items.iter().enumerate() {
                    all.extend(item.map(|item| (ItemRef { system, item }, here.contains(&at))));
                }
            }
        }
        Ok(all.into_iter().collect())
    }

    /// A share was opened.
    fn put(&mut self, job: &Job, object: Arc<dyn System>, spec: &Spec) {
        let one = self.systems.entry(job.position).or_insert_with(|| One::new(spec));
        let by_id: BTreeMap<ItemId, usize> =
            spec.items.iter().enumerate().map(|(at, item)| (item.id, at)).collect();
        let share = one.shares.len();
        let mut items = Vec::with_capacity(job.system.items.len());
        for (at, item) in job.system.items.iter().enumerate() {
            let place = by_id.get(&item.id).copied();
            if let Some(place) = place {
                one.places[place] = Some((share, at));
            }
            items.push(place);
        }
        self.numbers.insert(job.number, (job.position, share));
        one.shares.push(Share { object, number: job.number, items });
    }

    /// Goes on under another config: what is served on keeps its place, what is not is forgotten. Gives back the
    /// shares that are to be opened, and those that are done.
    fn adopt(&mut self, config: &Config) -> (Vec<Job>, Vec<Share>) {
        let mut known: BTreeMap<String, One> =
            std::mem::take(&mut self.systems).into_values().map(|one| (one.spec.name.clone(), one)).collect();
        self.numbers.clear();
        let (mut jobs, mut done) = (Vec::new(), Vec::new());
        for (position, spec) in config.systems.iter().enumerate() {
            // What was opened stays open: items of a system that this server has left may still be here.
            let one = known.remove(&spec.name);
            if one.is_none() && !config.my().systems.contains(&position) {
                continue;
            }
            let (one, fresh) = one.unwrap_or_else(|| One::new(spec)).adopt(spec, &mut done);
            if !fresh.is_empty() || one.shares.is_empty() {
                let items = fresh.into_iter().map(|at| spec.items[at].clone()).collect();
                jobs.push(Job { position, number: self.next, system: Spec { items, ..spec.clone() } });
                self.next += 1;
            }
            for (share, opened) in one.shares.iter().enumerate() {
                self.numbers.insert(opened.number, (position, share));
            }
            self.systems.insert(position, one);
        }
        for share in known.into_values().flat_map(|one| one.shares) {
            share.forget_all();
            done.push(share);
        }
        (jobs, done)
    }

    /// The numbers of the servers of a config.
    fn number_servers(&mut self, config: &Config) -> Vec<usize> {
        let mut numbers = Vec::with_capacity(config.servers.len());
        for server in &config.servers {
            let next = self.servers.len();
            numbers.push(*self.servers.entry(server.id.clone()).or_insert(next));
        }
        numbers
    }
}

impl One {
    /// As [`Served::adopt`]; gives back the positions of items that no share serves.
    fn adopt(self, spec: &Spec, done: &mut Vec<Share>) -> (Self, Vec<usize>) {
        let same = self.spec.looks_like(spec);
        let before: BTreeMap<ItemId, (&Item, (usize, usize))> = self
            .spec
            .items
            .iter()
            .zip(&self.places)
            .filter_map(|(item, place)| Some((item.id, (item, (*place)?))))
            .collect();
        let mut fresh = Vec::new();
        let mut places = Vec::with_capacity(spec.items.len());
        for (at, item) in spec.items.iter().enumerate() {
            let place = before.get(&item.id).filter(|(was, _)| same && spec.sees_as_one(was, item));
            if place.is_none() {
                fresh.push(at);
            }
            places.push(place.map(|(_, place)| *place));
        }
        let mut shares = self.shares;
        let mut kept = vec![BTreeMap::new(); shares.len()];
        for (at, place) in places.iter().enumerate() {
            if let Some((share, item)) = place {
                kept[*share].insert(*item, at);
            }
        }
        let mut moved = vec![None; shares.len()];
        let mut left = Vec::new();
        for (at, mut share) in shares.drain(..).enumerate() {
            for (item, place) in share.items.iter_mut().enumerate() {
                let now = kept[at].get(&item).copied();
                if place.is_some() && now.is_none() {
                    share.object.forget(item);
                }
                *place = now;
            }
            // One that serves nothing any more ends; the last one stays while nothing changed in its system.
            if !kept[at].is_empty() || same && spec.items.is_empty() && left.is_empty() {
                moved[at] = Some(left.len());
                left.push(share);
            } else {
                done.push(share);
            }
        }
        for place in &mut places {
            *place = place.and_then(|(share, item)| Some((moved[share]?, item)));
        }
        (Self { spec: spec.clone(), shares: left, places, trouble: None }, fresh)
    }
}

impl Share {
    fn forget_all(&self) {
        for (item, place) in self.items.iter().enumerate() {
            if place.is_some() {
                self.object.forget(item);
            }
        }
    }
}

impl Systems {
    /// Opens shares, all of one handler together.
    pub(super) fn open_all(
        &mut self,
        registry: &Registry,
        config: &Config,
        jobs: Vec<Job>,
    ) -> Result<Vec<Leftover>, OpenError> {
        let mut by_handler: BTreeMap<usize, Vec<&Job>> = BTreeMap::new();
        let mut opened: Vec<(&Job, Arc<dyn System>)> = Vec::new();
        for job in &jobs {
            match registry.lua(config, &job.system) {
                Some(made) => opened.push((job, Arc::new(made?))),
                None => by_handler.entry(registry.find(&job.system)?).or_default().push(job),
            }
        }
        let mut leftovers = Vec::new();
        for (handler, jobs) in by_handler {
            let assigned: Vec<_> = jobs.iter().map(|job| self.assigned(job, config)).collect();
            let made = registry.handlers[handler].open(&assigned, &self.drift, &self.bus)?;
            leftovers.extend(made.leftovers);
            opened.extend(jobs.into_iter().zip(made.systems));
        }
        for (job, object) in opened {
            self.served.put(job, object, &config.systems[job.position]);
        }
        Ok(leftovers)
    }

    fn assigned<'a>(&self, job: &'a Job, config: &'a Config) -> Assigned<'a> {
        Assigned { position: job.number, system: &job.system, siblings: self.siblings, config }
    }

    /// Goes on under another config, within this call: that of `Output::Config`. What is in both is not touched: its
    /// objects, and so what they announce and hold, are the same. What is new is opened, and what is gone is
    /// forgotten, which has been taken down before.
    ///
    /// Positions in all that is asked and told are those of `config` from now on.
    ///
    /// # Errors
    /// Each system that could not be opened, with why; hooks of its new items fail for that reason. Everything else
    /// goes on.
    pub fn adopt(&mut self, registry: &Registry, config: &Config) -> Vec<(String, OpenError)> {
        let numbers = self.served.number_servers(config);
        self.bus.set_numbers(numbers);
        // What those that are done share with others of their handler is there until these are opened.
        let (jobs, done) = self.served.adopt(config);
        let mut errors = Vec::new();
        for (position, one) in &self.served.systems {
            let spec = &config.systems[*position];
            for share in &one.shares {
                let items = share.items.iter().enumerate();
                let items: Vec<_> =
                    items.filter_map(|(at, item)| Some((at, &spec.items[(*item)?]))).collect();
                let assigned =
                    Assigned { position: share.number, system: spec, siblings: self.siblings, config };
                share.object.configure(&assigned, &items);
            }
        }
        // One by one: what one of them cannot do is not to keep the others.
        for job in jobs {
            let (position, name) = (job.position, job.system.name.clone());
            if let Err(error) = self.open_all(registry, config, vec![job]) {
                if let Some(one) = self.served.systems.get_mut(&position) {
                    one.trouble = Some(error.to_string());
                }
                errors.push((name, error));
            }
        }
        drop(done);
        self.posts.clear();
        for (position, spec) in config.systems.iter().enumerate() {
            if !config.my().systems.contains(&position) {
                continue;
            }
            match registry.post_of(spec) {
                Ok(post) => self.posts.extend(post.map(|post| (position, post))),
                Err(error) => errors.push((spec.name.clone(), error)),
            }
        }
        errors
    }
}
