//! Makes a droplet, once.
//!
//! The API has no key by which two requests would be the same, and takes any number of droplets of one name. So each bears the step's own tag
//! and a name; after a request whose answer was lost both are looked for, for as long as listings may lag behind, before there is another
//! request. What comes late nevertheless is swept: the lowest number stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use moorline_common::fault::Code;
use tokio::time::Instant;

use super::super::budgets::{CLOUD_SKEW, CREATE_RECHECK, POSTS, USER_DATA_MAX, YOUNG, paced};
use super::super::types::{ActionId, Droplet, DropletId, NewDroplet};
use super::super::{CloudError, Provider};
use super::destroy::delete;
use super::looks::Looks;
use super::mark::{MANAGED, Mark, SAGA, is_droplet_name, is_tag};
use super::{Attempt, StepError, within};

/// A droplet to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// What is wanted, with the operator's own tags.
    pub wanted: NewDroplet,
    /// The step.
    pub mark: Mark,
    /// Droplets that were deleted: listings may still show them, and they are never adopted.
    pub deleted: BTreeSet<DropletId>,
}

/// A droplet that was made, or found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// The droplet as it was seen. Its tags may not be on it yet.
    pub droplet: Droplet,
    /// The action that makes it, where that is known.
    pub action: Option<ActionId>,
    /// Duplicates that were deleted.
    pub swept: BTreeSet<DropletId>,
}

/// Makes the droplet, or finds the one that an earlier try made.
///
/// # Errors
/// [`StepError`]; with `effect` there may be a droplet, which [`undo_create`] finds.
pub async fn create(provider: &dyn Provider, input: &Create, attempt: &Attempt) -> Result<Created, StepError> {
    input.check()?;
    let search = Search::new(provider, input, attempt);
    within(attempt, &search.what, search.make()).await
}

/// Deletes what [`create`] made or may have made: the droplet of the number that is known, and whatever else bears tag and name.
/// Returns the numbers that were deleted.
///
/// # Errors
/// [`StepError`]; it can be tried again.
pub async fn undo_create(
    provider: &dyn Provider,
    input: &Create,
    known: Option<DropletId>,
    attempt: &Attempt,
) -> Result<BTreeSet<DropletId>, StepError> {
    let mut search = Search::new(provider, input, attempt);
    search.what = format!("undoing the creation of droplet `{}`", input.wanted.name);
    let what = search.what.clone();
    within(attempt, &what, search.unmake(known)).await
}

/// Deletes what bears tag and name and is not the droplet that is kept: a request may arrive long after its step is over. One look; worth one
/// when the saga is over, and at each sync of the inventory.
///
/// # Errors
/// [`StepError`]; it can be tried again.
pub async fn sweep(provider: &dyn Provider, input: &Create, kept: DropletId, attempt: &Attempt) -> Result<BTreeSet<DropletId>, StepError> {
    let mut search = Search::new(provider, input, attempt);
    search.what = format!("sweeping duplicates of droplet {kept}");
    let work = async {
        let found = search.look().await.map_err(|error| StepError::call(&error, &search.what, false))?;
        search.delete_all(found.ours.into_keys().filter(|id| *id != kept).collect(), kept).await
    };
    within(attempt, &search.what, work).await
}

impl Create {
    fn check(&self) -> Result<(), StepError> {
        let wanted = &self.wanted;
        let missing: Vec<&str> = [("name", &wanted.name), ("region", &wanted.region), ("size", &wanted.size), ("image", &wanted.image)]
            .into_iter()
            .filter(|(_, value)| value.trim().is_empty())
            .map(|(key, _)| key)
            .collect();
        if !missing.is_empty() {
            return Err(StepError::input(format!("a droplet needs {}", missing.join(", "))));
        }
        if !is_droplet_name(&wanted.name) {
            return Err(StepError::input(format!("`{}` is no name of a droplet: letters, digits, . and -, at most 255", wanted.name)));
        }
        if let Some(tag) = wanted.tags.iter().find(|tag| !is_tag(tag)) {
            return Err(StepError::input(format!("`{tag}` is no tag: letters, digits, : - and _, at most 255")));
        }
        if wanted.size.starts_with("gpu-") {
            // What could not be found again could not be undone either.
            return Err(StepError::input("droplets with GPUs are not made: listings by tag do not show them"));
        }
        match wanted.user_data.as_ref().map(|data| data.expose()) {
            Some(data) if data.len() > USER_DATA_MAX => {
                Err(StepError::input(format!("the text for the first boot has {} bytes; at most {USER_DATA_MAX} are taken", data.len())))
            }
            // The cloud accepts it, and the droplet vanishes.
            Some(data) if !data.is_ascii() => Err(StepError::input("the text for the first boot is not plain ASCII")),
            Some(_) | None => Ok(()),
        }
    }
}

/// What a listing shows of it.
#[derive(Default)]
struct Found {
    /// They bear name and tag.
    ours: BTreeMap<DropletId, Droplet>,
    /// It bears the name, and might have been made by an earlier try; its tag may still come.
    doubtful: Option<DropletId>,
}

enum Whose {
    Ours,
    Doubtful,
    Others,
}

struct Search<'a> {
    provider: &'a dyn Provider,
    input: &'a Create,
    attempt: &'a Attempt,
    tag: String,
    what: String,
}

impl<'a> Search<'a> {
    fn new(provider: &'a dyn Provider, input: &'a Create, attempt: &'a Attempt) -> Self {
        let what = format!("creating droplet `{}`", input.wanted.name);
        Self { provider, input, attempt, tag: input.mark.step_tag(), what }
    }

    async fn make(&self) -> Result<Created, StepError> {
        let mut wanted = self.input.wanted.clone();
        wanted.tags.extend([MANAGED.to_owned(), self.input.mark.saga_tag(), self.tag.clone()]);
        let mut in_doubt = self.attempt.tried_before;
        let mut lost = 0;
        loop {
            if in_doubt && let Some(droplet) = self.recheck().await? {
                return self.settle(droplet, None, false).await;
            }
            match self.provider.create_droplet(&wanted).await {
                Ok(accepted) => return self.settle(accepted.droplet, accepted.action, in_doubt).await,
                Err(error) if error.maybe_done() && lost + 1 < POSTS => {
                    tracing::warn!(name = wanted.name, %error, "whether a droplet was created is not known: it is looked for");
                    lost += 1;
                    in_doubt = true;
                }
                Err(error) => return Err(StepError::call(&error, &self.what, in_doubt)),
            }
        }
    }

    /// Looks until there is one, or until there would be one.
    async fn recheck(&self) -> Result<Option<Droplet>, StepError> {
        let mut looks = Looks::of(CREATE_RECHECK);
        let mut doubtful = None;
        let mut has_looked = false;
        while looks.next().await {
            match self.look().await {
                Ok(found) => {
                    has_looked = true;
                    doubtful = found.doubtful;
                    if let Some(droplet) = self.first_living(found.ours).await? {
                        return Ok(Some(droplet));
                    }
                }
                Err(error) => looks.missed(error).map_err(|error| StepError::call(&error, &self.what, true))?,
            }
        }
        match doubtful {
            Some(id) => Err(self.doubtful(id)),
            None if has_looked => Ok(None),
            None => Err(StepError::new(Code::CloudUnreachable, format!("{}: {}", self.what, looks.words()), true, true)),
        }
    }

    fn doubtful(&self, id: DropletId) -> StepError {
        let name = &self.input.wanted.name;
        let words =
            format!("{}: droplet {id} is called `{name}`, was made in the same minutes, and does not bear the tag {}", self.what, self.tag);
        StepError::new(Code::CloudDoubtful, words, true, true)
    }

    async fn look(&self) -> Result<Found, CloudError> {
        // By name as well: tags come after the droplet.
        let mut all = self.provider.droplets_by_tag(&self.tag).await?;
        all.extend(self.provider.droplets_by_name(&self.input.wanted.name).await?);
        let mut found = Found::default();
        for droplet in all {
            match self.whose(&droplet) {
                Whose::Ours => drop(found.ours.insert(droplet.id, droplet)),
                Whose::Doubtful => found.doubtful = Some(droplet.id),
                Whose::Others => {}
            }
        }
        Ok(found)
    }

    fn whose(&self, droplet: &Droplet) -> Whose {
        let wanted = &self.input.wanted;
        if droplet.name != wanted.name || self.input.deleted.contains(&droplet.id) {
            return Whose::Others;
        }
        if droplet.has_tag(&self.tag) {
            return Whose::Ours;
        }
        let is_anothers = droplet.tags.iter().any(|tag| tag.starts_with(SAGA) && *tag != self.input.mark.saga_tag());
        let is_older = droplet.created_at.plus(CLOUD_SKEW.as_secs()) < self.attempt.began_at;
        if is_anothers || is_older || droplet.size != wanted.size || !droplet.region.starts_with(&wanted.region) {
            return Whose::Others;
        }
        // Nobody else gives such a name.
        if self.input.mark.is_in(&droplet.name) { Whose::Ours } else { Whose::Doubtful }
    }

    /// The one with the lowest number that is not only shown, but there.
    async fn first_living(&self, ours: BTreeMap<DropletId, Droplet>) -> Result<Option<Droplet>, StepError> {
        for id in ours.into_keys() {
            match self.provider.droplet(id).await {
                Ok(droplet) => return Ok(Some(droplet)),
                // Deleted and lingering, or so new that it is not found yet: the next look tells.
                Err(CloudError::NotFound { .. }) => {}
                Err(error) if error.passes() => {}
                Err(error) => return Err(StepError::call(&error, &self.what, true)),
            }
        }
        Ok(None)
    }

    /// Keeps the lowest number of all that bear tag and name, and deletes the others.
    async fn settle(&self, droplet: Droplet, mut action: Option<ActionId>, in_doubt: bool) -> Result<Created, StepError> {
        let made = droplet.id;
        let mut ours = BTreeMap::from([(made, droplet)]);
        let mut looks = Looks::of(CREATE_RECHECK);
        while looks.next().await {
            match self.look().await {
                Ok(found) => ours.extend(found.ours),
                Err(error) if in_doubt => looks.missed(error).map_err(|error| StepError::call(&error, &self.what, true))?,
                Err(_) => break,
            }
            if !in_doubt {
                break;
            }
        }
        let lower: BTreeMap<_, _> = ours.iter().filter(|(id, _)| **id < made).map(|(id, droplet)| (*id, droplet.clone())).collect();
        let kept = self.first_living(lower).await?.map_or(made, |droplet| droplet.id);
        let swept = self.delete_all(ours.keys().copied().filter(|id| *id != kept).collect(), kept).await?;
        action = action.filter(|_| kept == made);
        let lacks = || StepError::new(Code::Internal, format!("{}: droplet {kept} was seen and is not known", self.what), true, true);
        Ok(Created { droplet: ours.remove(&kept).ok_or_else(lacks)?, action, swept })
    }

    async fn delete_all(&self, duplicates: BTreeSet<DropletId>, kept: DropletId) -> Result<BTreeSet<DropletId>, StepError> {
        for id in &duplicates {
            tracing::warn!(%id, %kept, tag = self.tag, "a duplicate droplet is deleted");
            delete(self.provider, *id, None, &self.what).await?;
        }
        Ok(duplicates)
    }

    async fn unmake(&self, known: Option<DropletId>) -> Result<BTreeSet<DropletId>, StepError> {
        let age = Duration::from_secs(self.attempt.now.0.saturating_sub(self.attempt.began_at.0));
        let young_until = Instant::now() + paced(YOUNG).saturating_sub(age);
        let mut gone = BTreeSet::new();
        if let Some(id) = known {
            delete(self.provider, id, Some(young_until), &self.what).await?;
            gone.insert(id);
        }
        let mut looks = Looks::of(CREATE_RECHECK);
        let (mut doubtful, mut has_looked) = (None, false);
        while looks.next().await {
            match self.look().await {
                Ok(found) => {
                    has_looked = true;
                    doubtful = found.doubtful.filter(|id| !gone.contains(id));
                    for id in found.ours.into_keys().filter(|id| !gone.contains(id)).collect::<Vec<_>>() {
                        delete(self.provider, id, Some(young_until), &self.what).await?;
                        gone.insert(id);
                    }
                    // What is known was found by its creation, which swept.
                    if known.is_some() && doubtful.is_none() {
                        break;
                    }
                }
                Err(error) => looks.missed(error).map_err(|error| StepError::call(&error, &self.what, true))?,
            }
        }
        match doubtful {
            Some(id) if known.is_none() => Err(self.doubtful(id)),
            Some(_) | None if has_looked => Ok(gone),
            Some(_) | None => Err(StepError::new(Code::CloudUnreachable, format!("{}: {}", self.what, looks.words()), true, true)),
        }
    }
}
