"""mmengine's training step: several batches a step, and no waiting for the device.

The native configs of mmaction2_config.py name this module in ``custom_imports``.
"""

import torch
from mmaction.registry import HOOKS, LOOPS, OPTIM_WRAPPERS
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.model import is_model_wrapper
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import EpochBasedTrainLoop

from . import HostError
from .mmaction2_components import FullBatchSampler
from .mmaction2_graph import GraphedStep, check_graph
from .mmaction2_hooks import describe_last
from .training_state import check_loss


@LOOPS.register_module()
class V1TrainLoop(EpochBasedTrainLoop):
    """A loop whose iterations are steps of the optimizer.

    Args:
        *args, **kwargs: of EpochBasedTrainLoop.
        accumulate (int): parts that a batch of the data loader is cut into,
            one after the other on the device. Their gradients add up to those
            of the batch, but for what a normalization takes from a part alone.
        cuda_graph (bool): a step is a CUDA graph, see mmaction2_graph.
    """

    def __init__(self, *args, accumulate=1, cuda_graph=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.accumulate = accumulate
        self.cuda_graph = cuda_graph
        self.graphed = None  # GraphedStep
        loader = self.dataloader
        whole = isinstance(loader.sampler, FullBatchSampler) or loader.drop_last
        if accumulate > 1 and not whole:
            raise HostError(
                f'accumulate={accumulate} needs whole batches: a '
                f'{type(loader.sampler).__name__} leaves a shorter one at the end of '
                f'an epoch; set native.train_dataloader.drop_last=True'
            )

    def run(self):
        """Train, with a wrapper of the optimizer that counts as this loop does."""
        wrapper = self.runner.optim_wrapper
        if self.accumulate > 1 and not isinstance(wrapper, NotWaiting):
            raise HostError(
                f'accumulate={self.accumulate} needs optim_wrapper.type='
                f'V1OptimWrapper or V1AmpOptimWrapper, not {type(wrapper).__name__}'
            )
        if self.cuda_graph:
            check_graph(self.runner.cfg)
            if is_model_wrapper(self.runner.model):
                raise HostError(
                    'with several processes, cuda_graph=True works in '
                    'tools/train_recognizer.py alone'
                )
        try:
            return super().run()
        finally:  # NCCL waits for its graphs to be gone before a group is shut down
            self.graphed = None

    def run_iter(self, idx, data_batch):
        """Take a step with a batch."""
        if self.accumulate == 1 and not self.cuda_graph:
            super().run_iter(idx, data_batch)
            return
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
        if self.cuda_graph:
            self.graphed = self.graphed or GraphedStep(
                runner.model, runner.optim_wrapper
            )
            if idx == 0:  # hooks may have changed something between epochs
                self.graphed.refresh()
            outputs = self.graphed(data_batch)
        else:
            outputs = self.take_parts(data_batch)
        runner.call_hook(
            'after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )
        self._iter += 1

    def take_parts(self, batch):
        """A step with the parts of a batch; returns the means of their outputs."""
        outputs = [
            self.runner.model.train_step(part, optim_wrapper=self.runner.optim_wrapper)
            for part in split_batch(batch, self.accumulate)
        ]
        return {
            name: torch.stack([output[name].detach() for output in outputs]).mean(0)
            for name in outputs[0]
        }


def split_batch(batch, parts):
    """A batch in parts of one size.

    Args:
        batch (dict): of inputs, clips in a tensor or a list, and data_samples.
        parts (int): a divisor of the number of clips.

    Yields:
        dict: with as many of each.
    """
    size = len(batch['inputs']) // parts
    for start in range(0, size * parts, size):
        yield {name: values[start : start + size] for name, values in batch.items()}


class NotWaiting:
    """Gradients of several backward passes, whose norm is not waited for.

    Args:
        *args, **kwargs: of the optimizer's wrapper.
        keep_gradients (bool): gradients stay where they are, and are set to 0
            between steps. CUDA graphs need it where backward passes add up:
            else the first gives memory of the graph, which the second uses again.
    """

    def __init__(self, *args, keep_gradients=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.keep_gradients = keep_gradients
        self.norm = None  # of the last step's gradients, on the device

    def initialize_count_status(self, model, init_counts, max_counts):
        """Count backward passes, of which a step of the loop has several."""
        parts = self._accumulative_counts
        super().initialize_count_status(model, init_counts * parts, max_counts * parts)
        if self.keep_gradients:
            for group in self.optimizer.param_groups:
                for parameter in group['params']:
                    if parameter.requires_grad:
                        parameter.grad = torch.zeros_like(parameter)

    def zero_grad(self, **kwargs):
        self.optimizer.zero_grad(set_to_none=not self.keep_gradients, **kwargs)

    def _clip_grad(self):  # mmengine's copies the norm to the host
        parameters = [
            parameter
            for group in self.optimizer.param_groups
            for parameter in group['params']
            if parameter.requires_grad and parameter.grad is not None
        ]
        if parameters:
            self.norm = self.clip_func(parameters, **self.clip_grad_kwargs)


@OPTIM_WRAPPERS.register_module()
class V1OptimWrapper(NotWaiting, OptimWrapper):
    """OptimWrapper, see :class:`NotWaiting`."""


@OPTIM_WRAPPERS.register_module()
class V1AmpOptimWrapper(NotWaiting, AmpOptimWrapper):
    """AmpOptimWrapper, which scales the loss of float16; see :class:`NotWaiting`."""


@HOOKS.register_module()
class V1RuntimeInfoHook(RuntimeInfoHook):
    """What a step returns is logged, and must be finite.

    RuntimeInfoHook waits for each step to end, so that the device waits for the
    next one to begin. Here the numbers of a step are copied beside the next
    one, and looked at after it; at once where they are printed, and at the end
    of an epoch, before anything is saved.
    """

    def before_train(self, runner):
        super().before_train(runner)
        self.steps = []  # that are not looked at
        self.intervals = [
            hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)
        ]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.settle(runner)
        values = dict(outputs)
        norm = getattr(runner.optim_wrapper, 'norm', None)  # a user's has none
        if norm is not None:
            values[runner.optim_wrapper.grad_name] = norm
        numbers = torch.stack([value.detach().double() for value in values.values()])
        # Waiting for it leaves the core to a data loader.
        event = torch.cuda.Event(blocking=True) if numbers.is_cuda else None
        numbers = numbers.to('cpu', non_blocking=True)
        if event:
            event.record()
        self.steps.append((batch_idx, list(values), numbers, event))
        if self.end_of_epoch(runner.train_dataloader, batch_idx) or any(
            self.every_n_inner_iters(batch_idx, interval) for interval in self.intervals
        ):
            self.settle(runner)

    def after_train(self, runner):
        self.settle(runner)
        super().after_train(runner)

    def settle(self, runner):
        """Look at the numbers of the steps that are behind."""
        while self.steps:
            batch_idx, names, numbers, event = self.steps.pop(0)
            if event:
                event.synchronize()
            values = dict(zip(names, numbers.tolist()))
            for name, value in values.items():
                runner.message_hub.update_scalar(f'train/{name}', value)
            check_loss(
                values['loss'],
                runner.epoch + 1,
                batch_idx + 1,
                len(runner.train_dataloader),
                lambda: describe_last(runner),
            )
