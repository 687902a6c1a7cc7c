import { plugin } from './plugin.js';
import { serve } from './prism/index.js';

await serve(plugin);
