"""The store: one database and everything that is done with it."""

from __future__ import annotations

from wlm_tasks.state.arrays import Arrays
from wlm_tasks.state.batches import Batches
from wlm_tasks.state.claims import Claims
from wlm_tasks.state.cleaning import Cleaning
from wlm_tasks.state.connections import ConnectionLeases
from wlm_tasks.state.coordination import Coordination
from wlm_tasks.state.database import Database
from wlm_tasks.state.deliveries import Deliveries
from wlm_tasks.state.disappearances import Disappearances
from wlm_tasks.state.incidents import Incidents
from wlm_tasks.state.intake import Intake
from wlm_tasks.state.jobs import Jobs
from wlm_tasks.state.polls import Polls
from wlm_tasks.state.queries import Views
from wlm_tasks.state.repair import Repair
from wlm_tasks.state.roster import Roster
from wlm_tasks.state.sites import Sites
from wlm_tasks.state.transfers import Transfers
from wlm_tasks.state.upkeep import Upkeep


class Store:
    """The rows, by who needs what of them. Safe to share between threads, not over a fork."""

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.intake = Intake(self.database)  #: experiments in; cancel, retry
        self.claims = Claims(self.database)  #: what the holder of a step writes
        self.batches = Batches(self.database)  #: several claims of one holder
        self.jobs = Jobs(self.database)  #: the books on jobs
        self.arrays = Arrays(self.database)  #: intents of many jobs at once
        self.upkeep = Upkeep(self.database)  #: what control asks
        self.coordination = Coordination(self.database)  #: leases, outbox
        self.polls = Polls(self.database)  #: when sites are asked
        self.sites = Sites(self.database)  #: how sites stand
        self.connections = ConnectionLeases(self.database)  #: who speaks to sites
        self.cleaning = Cleaning(self.database)  #: directories after the end
        self.roster = Roster(self.database)  #: which workers there are
        self.disappearances = Disappearances(self.database)  #: what their ends mean
        self.incidents = Incidents(self.database)  #: what went wrong
        self.deliveries = Deliveries(self.database)  #: who is told of it
        self.transfers = Transfers(self.database)  #: what was staged
        self.repair = Repair(self.database)  #: what needs a person
        self.views = Views(self.database)  #: reading

    def close(self) -> None:
        """Close the connections."""
        self.database.close()
