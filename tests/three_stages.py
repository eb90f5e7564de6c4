# The quickstart's config with a smaller network, for tests that train it: the fourth
# stage would see one pixel, and take most of the time of a step on a CPU.
_base_ = '../configs/DNR_resnet18_arrow_demo.py'
model = dict(
    backbone=dict(
        num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)
    ),
    spatial_temporal_module=dict(spatial_size=2),
    cls_head=dict(in_channels=256),
)
