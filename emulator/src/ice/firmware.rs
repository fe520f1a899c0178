//! What firmware keeps, and which of it a reset takes.

use super::command::{Answer, Command};
use super::config::Config;
use super::link::Port;
use super::nvm::Nvm;
use super::package::Package;
use super::resources::Resources;
use super::rss::Rss;
use super::sched::Scheduler;
use super::switch::Switch;
use super::vsi::Vsis;

/// All that commands work on, but for the queues.
pub struct Firmware {
    pub port: Port,
    pub nvm: Nvm,
    pub resources: Resources,
    pub vsis: Vsis,
    pub switch: Switch,
    pub scheduler: Scheduler,
    pub rss: Rss,
    pub package: Package,
}

impl Firmware {
    /// After power-on.
    pub fn new(config: &Config) -> Self {
        Self {
            port: Port::new(config.mac),
            nvm: Nvm::new(),
            resources: Resources::default(),
            vsis: Vsis::new(),
            switch: Switch::default(),
            scheduler: Scheduler::new(),
            rss: Rss::default(),
            package: if config.package { Package::earlier() } else { Package::default() },
        }
    }

    /// A reset of the function: all that it had, and not what is the device's, the package.
    pub fn reset(&mut self, config: &Config) {
        let package = std::mem::take(&mut self.package);
        *self = Self { package, ..Self::new(config) };
    }

    /// 0x02A4: interfaces and rules of the function go.
    pub fn clear_function(&mut self) {
        self.vsis = Vsis::new();
        self.switch = Switch::default();
        self.rss = Rss::default();
    }

    /// 0x0213: an interface goes, with what led to it.
    pub fn free_vsi(&mut self, command: &mut Command) -> Answer {
        let number = self.vsis.free(command)?;
        self.switch.forget(number);
        self.rss.forget(number);
        Ok(())
    }

    /// Keys and tables.
    pub fn rss_command(&mut self, command: &mut Command) -> Answer {
        if command.opcode & 1 == 0 { self.rss.key(command) } else { self.rss.table(command) }
    }
}
