//! Writers in other processes.
//!
//! ```text
//!   writer's process                                  cache's process
//!   attach(socket, path) ---- Attach{path} ---------> Cache::serve: opens the file
//!                        <--- Welcome{...} + memfd -- the whole arena
//!   reserves address space,
//!   a userfaultfd of its own --- Ready + uffd ------> a view; the guard listens to it
//!   first touch ------------- (userfaultfd) --------> guard, worker
//!   lays it itself       <--- Lay{...} -------------- ViewMap::lay, by the view's seat (`server.rs`)
//!   store into a page ------- (userfaultfd) --------> guard: held? it waits, as any writer
//! ```
//!
//! Only a process can change its own mappings; so the cache *asks* for those changes, and does all else itself, by the
//! userfaultfd that it was given: it protects, unprotects and wakes, and a writer that is stopped, or hangs, can not
//! delay a hold. What it is asked for and does not do within [`server::PATIENCE`] is taken for *perhaps done*: such a run
//! counts as laid, its pages stay where they are, and the process is asked for nothing more until it has answered.
//!
//! A view goes when its process has unmapped it and says so, or when its address space is gone. Not when the socket is
//! closed: what is mapped could still be stored into.
//!
//! # Whom to let in
//! **Whoever may connect can read and write every byte of the arena**, whatever is held: it is one memory, and the
//! descriptor of it is handed out. And it can read and write every file that the cache's process can. The socket's mode
//! (0600) decides who that is. What a peer *says* is checked all the same, and can not bring the cache down; but one that
//! means harm can keep its guard busy.

mod client;
mod protocol;
mod seat;
mod server;

pub use client::{AttachedFile, attach};
pub use server::Door;
