"""Jobs, the store they write to, and what runs them. Knows nothing about networks."""

from modeconn.execution.driver import Progress as Progress
from modeconn.execution.driver import run_jobs as run_jobs
from modeconn.execution.job import Job as Job
from modeconn.execution.job import job_name as job_name
from modeconn.execution.pool import default_workers as default_workers
from modeconn.execution.pool import process_pool as process_pool
from modeconn.execution.store import Artifact as Artifact
from modeconn.execution.store import Store as Store
