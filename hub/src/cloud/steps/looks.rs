//! Looking again and again.

use super::super::CloudError;
use super::super::budgets::{Budget, paced};

/// Looks that are left.
pub(super) struct Looks {
    budget: Budget,
    taken: u32,
    last: Option<CloudError>,
}

impl Looks {
    pub(super) fn of(budget: Budget) -> Self {
        Self { budget, taken: 0, last: None }
    }

    /// Waits for the next look; the first one is at once. Whether there is one.
    pub(super) async fn next(&mut self) -> bool {
        if self.taken >= self.budget.looks {
            return false;
        }
        if self.taken > 0 || self.last.is_some() {
            tokio::time::sleep(paced(self.budget.every)).await;
        }
        self.taken += 1;
        true
    }

    /// A look saw nothing, because the call failed. What will not pass is given back.
    pub(super) fn missed(&mut self, error: CloudError) -> Result<(), CloudError> {
        if !error.passes() {
            return Err(error);
        }
        if let CloudError::RateLimited { .. } = error {
            // Nobody looked.
            self.taken = self.taken.saturating_sub(1);
        }
        self.last = Some(error);
        Ok(())
    }

    /// Why nothing was seen, for people.
    pub(super) fn words(&self) -> String {
        let passed = self.budget.every.saturating_mul(self.taken.saturating_sub(1)).as_secs();
        match &self.last {
            Some(error) => format!("{} looks in {passed} s (one of them failed: {error})", self.taken),
            None => format!("{} looks in {passed} s", self.taken),
        }
    }
}
