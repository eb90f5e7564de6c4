"""The picture of what a relay predicts in the arrow study."""

from analysis.relay_drawing import draw_relays


def draw_relay(runs, relay):
    if relay is None:
        return None
    titles = [
        '— {}\n- - {}'.format(
            *(
                name.replace('_', ' ')
                .replace('counterclockwise', '↺')
                .replace('clockwise', '↻')
                for name in (clip['label'], clip['reversed_label'])
            )
        )
        for clip in relay['clips']
    ]
    return draw_relays(relay['layer'], relay['clips'], titles)
