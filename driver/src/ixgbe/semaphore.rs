//! Who may touch what both functions of a card and its firmware use (82599 datasheet 10.5.4; Linux `ixgbe_x540.c`).

use std::time::Duration;

use super::init::Function;
use super::regs::*;

impl Function {
    /// Does `work` while the PHY and its buses are ours. A semaphore that nobody gives back is taken all the same, as Linux does:
    /// its holder has died.
    pub(super) fn with_phy<R>(&self, work: impl FnOnce() -> R) -> R {
        let ours = if self.regs.read(STATUS) & STATUS_LAN_ID == 0 { SW_FW_SYNC_PHY0 } else { SW_FW_SYNC_PHY1 };
        self.within(|| {
            let start = self.regs.now();
            while self.regs.read(SW_FW_SYNC) & (ours | ours << FIRMWARE) != 0
                && self.regs.now().saturating_sub(start) < OTHERS
            {
                self.between();
            }
            self.set_owned(ours, true);
        });
        let done = work();
        self.within(|| self.set_owned(ours, false));
        done
    }

    fn set_owned(&self, bits: u32, owned: bool) {
        let now = self.regs.read(SW_FW_SYNC) & !SW_FW_SYNC_REGSMP;
        self.regs.write(SW_FW_SYNC, if owned { now | bits } else { now & !bits } | self.held());
    }

    /// The semaphore of the register itself, while it is ours: on the copper parts it is a bit in it.
    fn held(&self) -> u32 {
        if self.part.is_copper() { SW_FW_SYNC_REGSMP } else { 0 }
    }

    /// Changes SW_FW_SYNC while nobody else does.
    fn within(&self, change: impl FnOnce()) {
        self.acquire();
        change();
        self.release();
    }

    /// Lets the others have it for a moment.
    fn between(&self) {
        self.release();
        self.regs.sleep(Duration::from_millis(5));
        self.acquire();
    }

    fn acquire(&self) {
        let start = self.regs.now();
        let wait = |taken: &dyn Fn() -> bool| {
            while !taken() && self.regs.now().saturating_sub(start) < OTHERS {
                self.regs.sleep(Duration::from_micros(50));
            }
        };
        // Reading it as 0 has set it.
        wait(&|| self.regs.read(SWSM) & SWSM_SMBI == 0);
        if self.part.is_copper() {
            wait(&|| self.regs.read(SW_FW_SYNC) & SW_FW_SYNC_REGSMP == 0);
        } else {
            wait(&|| {
                self.regs.set(SWSM, SWSM_SWESMBI);
                self.regs.read(SWSM) & SWSM_SWESMBI != 0
            });
        }
    }

    fn release(&self) {
        if self.part.is_copper() {
            self.regs.clear(SW_FW_SYNC, SW_FW_SYNC_REGSMP);
        }
        self.regs.clear(SWSM, SWSM_SMBI | SWSM_SWESMBI);
        self.regs.flush();
    }
}

/// The firmware's bits lie so far above the drivers'.
const FIRMWARE: u32 = 5;
/// Others are waited for so long.
const OTHERS: Duration = Duration::from_secs(1);
