//! What people do in the cloud's control panel, behind the API's back.

use serde::{Deserialize, Serialize};

use super::World;
use super::droplet::{Droplet, Wanted};

/// One thing that somebody does. It is done at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields say what the variants do")]
pub enum Hand {
    /// Give a droplet another name.
    Rename { id: u64, name: String },
    /// Put a tag on it.
    Tag { id: u64, tag: String },
    /// Take one off it.
    Untag { id: u64, tag: String },
    /// Give it another size, with its disk.
    Resize { id: u64, size: String },
    /// Switch it off.
    PowerOff { id: u64 },
    /// Switch it on.
    PowerOn { id: u64 },
    /// Delete it.
    Delete { id: u64 },
    /// Delete a snapshot.
    DeleteSnapshot { id: u64 },
    /// Make a snapshot of a droplet.
    Snapshot { id: u64, name: String },
    /// Make a droplet, `active` after the usual time.
    Create { name: String, region: String, size: String, image: String, tags: Vec<String> },
    /// End a token: whoever calls with it is not let in.
    Revoke { token: String },
}

/// Who did it, in the ledger.
pub const HAND: &str = "hand";

impl World {
    /// Does it.
    ///
    /// # Errors
    /// When there is nothing to do it to.
    pub fn hand(&mut self, hand: &Hand) -> Result<(), String> {
        let now_ms = self.now_ms;
        match hand {
            Hand::Rename { id, name } => self.touched(*id)?.name.clone_from(name),
            Hand::Tag { id, tag } => {
                let tag = self.canonical_tag(tag);
                self.touched(*id)?.tags.insert(tag, now_ms);
            }
            Hand::Untag { id, tag } => {
                let tag = self.canonical_tag(tag);
                self.touched(*id)?.tags.remove(&tag);
            }
            Hand::Resize { id, size } => {
                if !self.setup.sizes.iter().any(|known| known.slug == *size) {
                    return Err(format!("there is no size {size}"));
                }
                self.touched(*id)?;
                self.resize(*id, size, true);
            }
            Hand::PowerOff { id } => {
                self.touched(*id)?;
                self.switch_off(*id, false);
            }
            Hand::PowerOn { id } => {
                self.touched(*id)?;
                self.switch_on(*id);
            }
            Hand::Delete { id } => {
                self.touched(*id)?;
                self.end_droplet(*id);
            }
            Hand::DeleteSnapshot { id } => {
                self.snapshots.get(id).filter(|snapshot| snapshot.deleted_ms.is_none()).ok_or(format!("there is no snapshot {id}"))?;
                self.end_snapshot(*id);
            }
            Hand::Snapshot { id, name } => {
                self.touched(*id)?;
                self.make_snapshot(*id, name, 0, HAND);
            }
            Hand::Create { name, region, size, image, tags } => {
                let disk = self.setup.sizes.iter().find(|known| known.slug == *size).ok_or(format!("there is no size {size}"))?.disk;
                let found = self.setup.images.iter().find(|known| known.slug == *image).ok_or(format!("there is no image {image}"))?.id;
                let (name, region, size, tags) = (name.clone(), region.clone(), size.clone(), tags.clone());
                self.begin_droplet(Wanted { name, region, size, disk, image: found, tags, ..Wanted::default() }, HAND);
            }
            Hand::Revoke { token } => self.setup.tokens.retain(|known| known.name != *token),
        }
        Ok(())
    }

    fn touched(&mut self, id: u64) -> Result<&mut Droplet, String> {
        self.droplets.get_mut(&id).filter(|droplet| droplet.deleted_ms.is_none()).ok_or(format!("there is no droplet {id}"))
    }
}
