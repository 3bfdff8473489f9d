"""Jobs, the store they write to, and what runs them. Knows nothing about networks."""

from modeconn.execution.artifact import Artifact as Artifact
from modeconn.execution.driver import run_jobs as run_jobs
from modeconn.execution.engine import Engine as Engine
from modeconn.execution.engine import MakeExecutor as MakeExecutor
from modeconn.execution.engine import choose_engine as choose_engine
from modeconn.execution.heartbeat import Heartbeat as Heartbeat
from modeconn.execution.job import Job as Job
from modeconn.execution.names import job_name as job_name
from modeconn.execution.pool import process_pool as process_pool
from modeconn.execution.pool import visible_gpus as visible_gpus
from modeconn.execution.store import Store as Store
from modeconn.progress import Progress as Progress
