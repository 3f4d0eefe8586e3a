"""TensorBoard's page HPARAMS, as its own server computes it for the browser."""

from dataclasses import dataclass
from pathlib import Path

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups
from tensorboard.plugins.hparams.backend_context import Context

SHOWN = 5  # options, and metrics, that the page shows without being asked


@dataclass(frozen=True)
class HParamsPage:
    """What the page shows of a log directory.

    Attributes:
        options: names of the option columns, those that differ first.
        differing: names of the options with several values.
        metrics: names of the metric columns.
        rows: run to its values by column.
        statuses: run to STATUS_SUCCESS or STATUS_UNKNOWN.
    """

    options: list[str]
    differing: list[str]
    metrics: list[str]
    rows: dict[str, dict[str, object]]
    statuses: dict[str, str]


def read_hparams_page(logdir: Path) -> HParamsPage:
    """Read the page of a log directory, with the default columns and filters."""
    runs = EventMultiplexer().AddRunsFromDirectory(str(logdir))
    runs.Reload()
    provider = MultiplexerDataProvider(runs, str(logdir))
    context = Context(TBContext(data_provider=provider, logdir=str(logdir)))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=100,
        allowed_statuses=list(api_pb2.Status.values()),
    )
    arguments = (RequestContext(), context, "")
    experiment = get_experiment.Handler(*arguments, api_pb2.GetExperimentRequest()).run()
    groups = list_session_groups.Handler(*arguments, request).run().session_groups
    return HParamsPage(
        [info.name for info in experiment.hparam_infos],
        [info.name for info in experiment.hparam_infos if info.differs],
        [info.name.tag for info in experiment.metric_infos],
        {group.name: _values(group) for group in groups},
        {x.name: api_pb2.Status.Name(x.status) for group in groups for x in group.sessions},
    )


def _values(group: api_pb2.SessionGroup) -> dict[str, object]:
    options = {name: getattr(x, x.WhichOneof("kind")) for name, x in group.hparams.items()}
    return options | {metric.name.tag: metric.value for metric in group.metric_values}
