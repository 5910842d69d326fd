"""Every error of the package, in one tree.

::

    WlmError
    ├── InputError                 the caller's mistake; nothing was written or sent
    │   ├── InvalidExperimentError
    │   ├── InvalidParametersError
    │   ├── InvalidPathError
    │   ├── ConfigError
    │   ├── KeyConflictError
    │   ├── NotFoundError
    │   └── AmbiguousIdError
    ├── StateError                 the rows say otherwise
    │   ├── IllegalTransitionError
    │   └── FencedError
    ├── StepError                  a step cannot go on
    │   ├── TransientError         worth another try after a pause
    │   │   ├── BackendUnavailableError
    │   │   │   ├── CommandGivenUpError
    │   │   │   ├── JobUndecidedError
    │   │   │   └── SiteTroubleError       the whole site, not one job
    │   │   │       ├── SiteUnreachableError
    │   │   │       ├── SiteAuthError
    │   │   │       ├── SiteNoShellError
    │   │   │       ├── SiteOverloadedError
    │   │   │       └── SiteMaintenanceError
    │   │   └── StorageUnavailableError
    │   │       ├── StorageBusyError       another transfer writes the same
    │   │       ├── NoDirectWayError       one host does not reach the other by itself
    │   │       └── StorageAgainError      what was sent has to be sent again
    │   └── PermanentError         will fail again however often it is tried
    │       ├── JobRejectedError
    │       ├── JobCancelledError
    │       ├── JobFailedError
    │       └── StorageRefusedError
    │           └── StorageMissingError    there is no such file
    ├── NotifyError                a notice was not passed on
    │   ├── NotifyUnavailableError     worth another try, now or when a person has mended it
    │   └── NotifyRefusedError         this very message is not taken, however often it is sent
    ├── ExperimentFailedError      what ``wait()`` raises for an unsuccessful end
    └── ServiceError               database, broker or Serf out of reach

The kind of an error is its class, never a flag: Celery's JSON carries an exception's class and
positional arguments and nothing else. For the same reason every class takes positional
arguments only and hands all of them to ``Exception.__init__``.
"""

from __future__ import annotations


class WlmError(Exception):
    """Base of every error raised on purpose by this package."""

    @property
    def message(self) -> str:
        """The text to show a person."""
        return str(self.args[0]) if self.args else (self.__doc__ or type(self).__name__)

    def __str__(self) -> str:
        return self.message


class InputError(WlmError):
    """The input is wrong; nothing was written or sent."""


class InvalidExperimentError(InputError):
    """The experiment is not valid."""


class InvalidParametersError(InputError):
    """The parameters or the sweep do not fit the experiment."""


class InvalidPathError(InputError):
    """A path leaves the directory it must stay in."""


class ConfigError(InputError):
    """A setting is wrong."""


class KeyConflictError(InputError):
    """The key was used before for a different experiment."""


class NotFoundError(InputError):
    """Nothing of that name or id exists."""


class AmbiguousIdError(InputError):
    """More than one id begins like that."""


class StateError(WlmError):
    """The stored state does not allow this."""


class IllegalTransitionError(StateError):
    """The transition table has no such move."""


class FencedError(StateError):
    """Somebody else holds the claim now; this holder's write was refused."""


class StepError(WlmError):
    """A step could not do its work."""


class TransientError(StepError):
    """A passing fault: the step is tried again after a pause."""


class BackendUnavailableError(TransientError):
    """The site cannot be reached or does not answer."""


class JobUndecidedError(BackendUnavailableError):
    """Whether the site took the job is not known yet: look it up later, do not submit again."""


class SiteTroubleError(BackendUnavailableError):
    """The site as a whole does not serve us now; no job of it is to blame."""


class SiteUnreachableError(SiteTroubleError):
    """The site's host or scheduler does not answer."""


class SiteAuthError(SiteTroubleError):
    """The site refused our credentials, or its host key is not the known one; a person mends it."""


class SiteNoShellError(SiteTroubleError):
    """The host lets us in and runs no commands for us."""


class SiteOverloadedError(SiteTroubleError):
    """The site asks for fewer requests, or a limit of the account is reached; it passes."""


class SiteMaintenanceError(SiteTroubleError):
    """The site's operators have taken it out of service for a while."""


class CommandGivenUpError(BackendUnavailableError):
    """A command on a site's host did not end in time; it may go on."""


class StorageUnavailableError(TransientError):
    """The storage cannot be reached or does not answer."""


class StorageBusyError(StorageUnavailableError):
    """Another transfer writes the same file, or has just done so."""


class NoDirectWayError(StorageUnavailableError):
    """Two hosts do not get through to each other; through the worker the bytes may."""


class StorageAgainError(StorageUnavailableError):
    """What was sent was not taken, and would be now: a transfer sends it again, once, at once."""


class PermanentError(StepError):
    """A lasting fault: trying again would fail again."""


class JobRejectedError(PermanentError):
    """The site refused the job, in its own words."""


class JobCancelledError(PermanentError):
    """The job was cancelled before it was started; it will never start."""


class JobFailedError(PermanentError):
    """The job ended without success."""


class StorageRefusedError(PermanentError):
    """The transfer is impossible: missing, forbidden, not a file, or not the bytes promised."""


class StorageMissingError(StorageRefusedError):
    """There is no such file."""


class NotifyError(WlmError):
    """People could not be told."""


class NotifyUnavailableError(NotifyError):
    """Who passes notices on cannot be reached, or does not let us in; the message can wait."""


class NotifyRefusedError(NotifyError):
    """The message itself is refused: trying again would fail again."""


class ExperimentFailedError(WlmError):
    """The experiment ended without success. Arguments: message, experiment id, final state."""


class ServiceError(WlmError):
    """The database, the broker or the Serf agent is out of reach."""
